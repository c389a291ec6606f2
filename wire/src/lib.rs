//! Packet header views, checksums and address newtypes of Ringway.
