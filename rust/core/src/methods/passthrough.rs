//! One model's tensor as it is, or scaled. Unscaled and in its own dtype it is moved as bytes; see `plan`.

use super::{ANY, Base, Class, Default, Kernel, Method, Parameter, Params, Spec, Tile};
use crate::kernels::arith;

pub(super) struct Passthrough;

static SPEC: Spec = Spec {
    name: "passthrough",
    summary: "copy tensors of one model, optionally scaled; stacks and swaps layers with `slices`",
    formula: "scale * x",
    paper: "",
    departs: "keeps every tensor of the checkpoint; unscaled tensors are moved bit for bit",
    parameters: &[Parameter::each("scale", "factor on the tensor", ANY, Default::Number(1.0))],
    base: Base::None,
    inputs: (1, 1),
    class: Class::Element,
    reads: 1,
    homogeneous: false,
};

struct Bound {
    scale: f32,
}

fn scale(params: &Params) -> f64 {
    params.numbers("scale").first().copied().unwrap_or(1.0)
}

impl Method for Passthrough {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn identity(&self, params: &Params) -> bool {
        scale(params) == 1.0
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Bound { scale: scale(params) as f32 }))
    }
}

impl Kernel for Bound {
    fn casts(&self) -> bool {
        self.scale == 1.0
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        if self.scale == 1.0 {
            out.copy_from_slice(tile.inputs[0]);
        } else {
            arith::scale(tile.inputs[0], self.scale, out);
        }
    }
}
