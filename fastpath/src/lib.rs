//! Ringway's packet path: ports, workers, stages, compile; and ringway-fastpath.
