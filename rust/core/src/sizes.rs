//! How much is taken at a time, from a thread's share down to what the cache holds.

/// Elements summed in f64 lanes before they join the running total.
pub const BLOCK: usize = 1024;
/// Elements that one thread takes at a time; fixed, so that sums have one shape whatever the settings.
pub const SPAN: u64 = 1 << 22;
/// Elements of a chunk, the unit of I/O, when memory allows: 2 MiB of bf16, the size direct I/O likes best.
pub const CHUNK: u64 = 1 << 20;
/// Smallest chunk, in elements.
pub const MIN_CHUNK: u64 = BLOCK as u64;
/// Elements widened to f32 at a time: four inputs and the result fit the second-level cache.
pub const TILE: usize = 4 * BLOCK;
/// Threads that write.
pub const WRITERS: usize = 2;
