//! RAM: average where several models changed an element, keep the change where one did. RAM+ also makes up, in the
//! elements that are a model's own, for what averaging took from its shared ones.

use super::{
    Base, Class, Cost, Default, Element, Kernel, LARV, Method, POSITIVE, Parameter, Params, SVC, Spec, Stats, Tile,
    Totals, Wants,
};
use crate::kernels::arith::{moved, of_changes};

const EPSILON: Parameter =
    Parameter::shared("epsilon", "change up to which an element counts as unchanged", POSITIVE, Default::Number(1e-5));

const SPEC: Spec = Spec {
    name: "ram",
    summary: "average each element over the models that changed it",
    formula: "base + sum of the changes larger than epsilon / their number",
    paper: "RAM, arXiv 2601.13572",
    departs: "computes in f64 and rounds once",
    parameters: &[EPSILON, SVC, LARV],
    base: Base::Required,
    inputs: (1, usize::MAX),
    class: Class::Element,
    reads: 1,
    homogeneous: false,
};

/// For each element the number of models that changed it, and whether it is more than one.
fn count(tile: &Tile, e: usize, base: &[f32], epsilon: f32) -> u32 {
    tile.inputs.iter().map(|x| u32::from((x[e] - base[e]).abs() > epsilon)).sum()
}

pub(super) struct Ram;

impl Method for Ram {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let ones = vec![1.0; params.inputs];
        let epsilon = params.number("epsilon") as f32;
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| merge(tile, epsilon, &ones, out))))
    }
}

/// Adds to the base the mean of the changes of each element; where only one model made one, times that model's factor.
fn merge(tile: &Tile, epsilon: f32, own: &[f64], out: &mut [f32]) {
    let Some(base) = tile.base else { return };
    of_changes(base, tile.inputs, own, out, |b, changes, own| {
        let (mut sum, mut changed, mut factor) = (0.0, 0.0, 1.0);
        for (d, own) in changes.iter().zip(own) {
            // A NaN is no change that could be told from none; it must come through.
            let active = ((*d as f32).abs() > epsilon) | d.is_nan();
            sum += if active { *d } else { 0.0 };
            changed += if active { 1.0 } else { 0.0 };
            factor = if active { *own } else { factor };
        }
        moved(b, if changed == 1.0 { sum * factor } else { sum / if changed == 0.0 { 1.0 } else { changed } })
    });
}

pub(super) struct RamPlus;

static PLUS: Spec = Spec {
    name: "ramplus_tl",
    summary: "ram, with each model's own changes raised by how many it shares with others",
    formula: "as ram; own changes times 1 + r clip(shared / own, 0, alpha), counted in the tensor",
    departs: "computes in f64 and rounds once to the checkpoint's dtype (mergekit writes f32)",
    parameters: &[
        EPSILON,
        SVC,
        LARV,
        Parameter::shared("r", "strength of the raise", POSITIVE, Default::Number(0.1)),
        Parameter::shared("alpha", "largest ratio of shared to own that counts", POSITIVE, Default::Number(0.2)),
    ],
    class: Class::Order,
    reads: 2,
    ..SPEC
};

impl Method for RamPlus {
    fn spec(&self) -> &Spec {
        &PLUS
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Plus {
            n: params.inputs,
            epsilon: params.number("epsilon"),
            r: params.number("r"),
            alpha: params.number("alpha"),
            factors: None,
        }))
    }
}

struct Plus {
    n: usize,
    epsilon: f64,
    r: f64,
    alpha: f64,
    factors: Option<Vec<f64>>,
}

impl Kernel for Plus {
    fn cost(&self) -> Cost {
        Cost { reads: 2, wants: Wants { sums: 2 * self.n, ..Wants::default() }, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        self.factors.is_none().then_some(self.cost().wants)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let Some(base) = tile.base else { return };
        let epsilon = self.epsilon as f32;
        for e in 0..base.len() {
            let all = count(tile, e, base, epsilon);
            for (x, sums) in tile.inputs.iter().zip(stats.sums.chunks_exact_mut(2)) {
                let active = (x[e] - base[e]).abs() > epsilon;
                sums[0] += f64::from(u8::from(active && all > 1));
                sums[1] += f64::from(u8::from(active && all == 1));
            }
        }
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        let factor = |s: &[f64]| 1.0 + self.r * (s[0] / s[1].max(self.epsilon)).clamp(0.0, self.alpha);
        self.factors = Some(totals.sums.chunks_exact(2).map(factor).collect());
        Ok(())
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        merge(tile, self.epsilon as f32, self.factors.as_deref().unwrap_or(&vec![1.0; self.n]), out);
    }
}
