//! Sizes that several rooms go by. A *span* is what one thread takes at a time, a *chunk* what is read or written at a time,
//! a *tile* what is widened to f32 at a time; a *unit* is the elements a method needs together, a row or a block.

/// Alignment of direct I/O and of data in written shards, in bytes: a page and a file-system block.
pub const ALIGN: u64 = 4096;
/// Elements summed in f64 lanes before they join the running total.
pub const BLOCK: usize = 1024;
/// Elements of a span; fixed, so that sums have one shape whatever the settings.
pub const SPAN: u64 = 1 << 22;
/// Elements of a chunk when memory allows: 2 MiB of bf16, the size direct I/O likes best.
pub const CHUNK: u64 = 1 << 20;
/// Smallest chunk, in elements.
pub const MIN_CHUNK: u64 = BLOCK as u64;
/// Elements of a tile: four inputs and the result fit the second-level cache.
pub const TILE: usize = 4 * BLOCK;
/// Threads that write.
pub const WRITERS: usize = 2;
/// Elements of a packed difference that are packed together: what has to be unpacked to read one of them.
pub const PACKED: u64 = 1 << 18;
