//! Criterion benchmarks of the kernels: elements a second on one thread.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use suture_core::delta::moments::Moments;
use suture_core::digest::Leaves;
use suture_core::kernels::{arith, cast, reduce, rng, select};

const N: usize = 4096;

fn values(seed: u64) -> Vec<f32> {
    let mut words = vec![0u32; N];
    rng::words(seed, 0, &mut words);
    words.iter().map(|w| (*w as f32 / u32::MAX as f32 - 0.5) * 0.04).collect()
}

fn kernels(c: &mut Criterion) {
    let (a, b, d) = (values(1), values(2), values(3));
    let mut out = vec![0f32; N];
    let mut bytes = vec![0u8; N * 2];
    let mut words = vec![0u32; N];
    let mut counts = vec![0u32; select::BINS];
    let mut group = c.benchmark_group("kernels");
    group.throughput(Throughput::Elements(N as u64));
    group.bench_function("narrow_bf16", |x| x.iter(|| cast::narrow(cast::Element::Bf16, &a, &mut bytes)));
    group.bench_function("widen_bf16", |x| x.iter(|| cast::widen(cast::Element::Bf16, &bytes, &mut out)));
    group.bench_function("first_nonfinite_bf16", |x| {
        x.iter(|| cast::first_nonfinite(suture_core::dtype::Dtype::Bf16, &bytes))
    });
    group.bench_function("combine_3", |x| x.iter(|| arith::combine(&[&a, &b, &d], &[0.5, 0.3, 0.2], &mut out)));
    group.bench_function("dot", |x| x.iter(|| reduce::dot(&a, &b, &mut 0.0)));
    group.bench_function("philox", |x| x.iter(|| rng::words(7, 0, &mut words)));
    group.bench_function("count_high", |x| x.iter(|| select::count_high(&a, &mut counts)));
    group.bench_function("count_low", |x| x.iter(|| select::count_low(&a, 31000, &mut counts)));
    group.bench_function("moments", |x| x.iter(|| Moments::of(&a, &b)));
    group.bench_function("digest", |x| {
        x.iter(|| {
            let mut leaves = Leaves::new();
            leaves.update(&bytes);
            leaves.finish()
        });
    });
    group.finish();
}

criterion_group!(benches, kernels);
criterion_main!(benches);
