//! The core without Python, for profilers: `run RECIPE.json OUT` compiles a recipe and runs it on two threads.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use suture_core::checkpoint::Target;
use suture_core::engine::backend::Cpu;
use suture_core::engine::{self, Means, Options, Work, observer::Silent};
use suture_core::source::IoMode;

fn main() {
    let mut args = std::env::args().skip(1);
    let recipe = serde_json::from_str(&std::fs::read_to_string(args.next().unwrap()).unwrap()).unwrap();
    let options = Options { threads: 2, io: IoMode::Auto, memory: None, chunk: None, allow_nonfinite: false };
    let plan = suture_core::ops::compile(&recipe, None, 0, None).unwrap();
    let start = std::time::Instant::now();
    let target = Target::resolve(Path::new(&args.next().unwrap())).unwrap();
    let means = Means { threads: 2, backend: &Cpu, device: None, observer: &Silent };
    let work = Work { plan: &plan, target: &target, sidecars: &[], warnings: &[], overwrite: true };
    engine::run(&[work], &options, &means).unwrap();
    println!("{:.3} s", start.elapsed().as_secs_f64());
}
