//! A port in memory: two queues of frames. For tests, benches and as the model that every other port must match.
