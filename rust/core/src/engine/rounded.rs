//! The elements of a result on their way out: rounded to the output's dtype, checked for NaN, digested.

use super::output::Output;
use super::tiles::Inputs;
use crate::digest::Leaves;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, first_nonfinite, narrow};
use crate::plan::{Plan, TensorPlan};

/// Takes elements of a tensor in order.
pub struct Rounded<'a> {
    inputs: Inputs<'a>,
    tensor: &'a TensorPlan,
    element: Element,
    out: Output<'a>,
    leaves: Leaves,
    /// The next element.
    at: u64,
}

impl<'a> Rounded<'a> {
    /// Starts at element `at` of a tensor, whose bytes go to `out`.
    pub fn new(inputs: Inputs<'a>, tensor: &'a TensorPlan, element: Element, out: Output<'a>, at: u64) -> Self {
        Self { inputs, tensor, element, out, leaves: Leaves::new(), at }
    }

    /// Takes the next elements.
    ///
    /// # Errors
    /// An element that is not finite, unless these are let through; as [`Output::next`].
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        let (element, width) = (self.element, self.element.bytes());
        let mut done = 0;
        while done < values.len() {
            let rest = &values[done..];
            let at = self.at;
            let taken = self.out.next(rest.len() * width, width, |bytes| {
                narrow(element, &rest[..bytes.len() / width], bytes);
                if !self.inputs.allow_nonfinite
                    && let Some(i) = first_nonfinite(self.tensor.dtype, bytes)
                {
                    return Err(overflow(self.inputs.plan, self.tensor, at + i as u64));
                }
                self.leaves.update(bytes);
                Ok(())
            })?;
            done += taken / width;
            self.at += (taken / width) as u64;
        }
        Ok(())
    }

    /// Sends what is there on its way; returns the digests.
    ///
    /// # Errors
    /// As [`Output::send`].
    pub fn finish(mut self) -> Result<Vec<u128>> {
        self.out.send()?;
        Ok(self.leaves.finish())
    }
}

/// The complaint about an element of a result that is not finite.
pub fn overflow(plan: &Plan, t: &TensorPlan, element: u64) -> Error {
    let path = t.action.places().first().map(|p| plan.path(*p).clone()).unwrap_or_default();
    let problem = format!(
        "element {element} of the result is not a finite {}, though the inputs are finite; change the parameters or \
         the dtype, or pass --nan allow",
        t.dtype.name()
    );
    Error::tensor(&path, &t.name, problem)
}
