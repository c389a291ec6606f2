//! Ringway's control plane: sources, resolve, IPAM, push; ringway-control and ringway-cni.
