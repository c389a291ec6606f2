//! Desired state, acknowledgements and framing between Ringway's control and fastpath.
