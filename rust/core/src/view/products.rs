//! The sum of low-rank products, formed block by block as it is asked for.
//!
//! Whole rows are formed wherever a tile begins, so that the kernel has several at a time.

use std::ops::Range;

use parking_lot::Mutex;

use super::factor::{Left, Right};
use crate::checkpoint::made::{BLOCK, Product, rows_together};
use crate::error::Result;
use crate::kernels::low_rank::{Panels, Real};

/// Products and their factors.
pub type Factors<'a> = [(&'a Product, Left<'a>, Right<'a>)];

/// What was formed last, in one of the two precisions.
#[derive(Default)]
pub struct Products<T>(Mutex<Formed<T>>);

#[derive(Default)]
struct Formed<T> {
    elements: Range<u64>,
    values: Vec<T>,
    left: Vec<T>,
    /// Of each product the block of the right factor that was used last.
    right: Vec<Option<(u64, Panels<T>)>>,
}

impl<T: Real> Products<T> {
    /// Calls `f` with pieces of `part`, by their places in it, as they are formed.
    ///
    /// `columns` are the elements of a row; nothing is formed beyond the row that `end` is in.
    pub fn each(
        &self,
        factors: &Factors,
        columns: u64,
        part: &Range<u64>,
        end: u64,
        mut f: impl FnMut(Range<usize>, &[T]),
    ) -> Result<()> {
        let mut formed = self.0.lock();
        let mut at = part.start;
        while at < part.end && !factors.is_empty() {
            if !formed.elements.contains(&at) {
                formed.form(factors, columns, at, end)?;
            }
            let stop = part.end.min(formed.elements.end);
            let own = (at - formed.elements.start) as usize..(stop - formed.elements.start) as usize;
            f((at - part.start) as usize..(stop - part.start) as usize, &formed.values[own]);
            at = stop;
        }
        Ok(())
    }
}

impl<T: Real> Formed<T> {
    /// Forms the block that begins in the row of the element `at`.
    fn form(&mut self, factors: &Factors, columns: u64, at: u64, end: u64) -> Result<()> {
        self.elements = 0..0;
        let first = at / columns;
        let rows = first..(first + rows_together(columns)).min(end.div_ceil(columns));
        // Of a row longer than a block the part that `at` is in.
        let begin = at % columns / BLOCK * BLOCK;
        let width = (columns - begin).min(BLOCK) as usize;
        self.values.resize((rows.end - rows.start) as usize * width, T::default());
        self.right.resize_with(factors.len(), || None);
        for (i, ((product, left, right), kept)) in factors.iter().zip(&mut self.right).enumerate() {
            left.read(&rows, &mut self.left)?;
            let rank = product.rank as usize;
            for (block, own) in product.blocks(&rows) {
                let panels = match kept.take() {
                    Some((known, panels)) if known == block => panels,
                    _ => right.read(block)?,
                };
                let own = (own.start - rows.start) as usize..(own.end - rows.start) as usize;
                let (left, out) = (&self.left[own.start * rank..own.end * rank], own.start * width..own.end * width);
                T::form(left, rank, panels.from(begin as usize), width, &mut self.values[out], i > 0);
                *kept = Some((block, panels));
            }
        }
        let start = first * columns + begin;
        self.elements = start..start + self.values.len() as u64;
        Ok(())
    }
}
