//! Every method there is: one line each.

use super::{
    Method, arcee, element, emr, fisher, gram, linear, magmax, matrix, passthrough, pcb, ram, sce, sparse, tall, varm,
};

/// All methods, in the order they are listed to users.
pub static METHODS: &[&dyn Method] = &[
    &passthrough::Passthrough,
    &linear::Linear,
    &gram::Slerp,
    &gram::Nuslerp,
    &gram::Multislerp,
    &gram::Karcher,
    &sparse::TASK_ARITHMETIC,
    &sparse::TIES,
    &sparse::DARE_LINEAR,
    &sparse::DARE_TIES,
    &sparse::DELLA,
    &sparse::DELLA_LINEAR,
    &sparse::BREADCRUMBS,
    &sparse::BREADCRUMBS_TIES,
    &sparse::CABS,
    &sparse::LOCALIZE_AND_STITCH,
    &sparse::LINES,
    &sce::Sce,
    &pcb::Pcb,
    &emr::Emr,
    &element::Mask,
    &tall::TallMask,
    &tall::ConsensusTa,
    &magmax::Magmax,
    &ram::Ram,
    &ram::RamPlus,
    &varm::Varm,
    &gram::ModelStock,
    &gram::Metagpt,
    &element::Expo,
    &element::Nearswap,
    &arcee::ArceeFusion,
    &fisher::Fisher,
    &matrix::TSVM,
    &matrix::TSVM_REWEIGHTED,
    &matrix::ISO_C,
    &matrix::ISO_CTS,
    &matrix::STAR,
    &matrix::CART,
    &matrix::WUDI,
    &matrix::SWUDI,
    &matrix::OPCM,
    &matrix::RESMERGE,
    &matrix::DC_MERGE,
    &matrix::KNOTS,
    &matrix::CORE_SPACE,
    &matrix::Regmean,
];

/// Copies of one model, cast or scaled.
pub const PASSTHROUGH: &dyn Method = &passthrough::Passthrough;

/// Weighted sums.
pub const LINEAR: &dyn Method = &linear::Linear;

/// The method called `name`.
pub fn find(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().copied().find(|m| m.spec().name == name)
}
