//! What decides the bytes of an output beside its tensors, and which tensors two plans make alike.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{Action, Plan, TensorPlan};
use crate::checkpoint::Checkpoint;
use crate::methods::larv;
use crate::source::Identity;

impl Plan {
    /// What its digest is of, but for the tensors.
    pub(super) fn head(&self) -> String {
        let headers: Vec<Vec<&str>> =
            self.models.iter().map(|m| m.files.iter().map(|f| f.header_digest.as_str()).collect()).collect();
        let shards: Vec<_> = self.shards.iter().map(|s| (&s.file, s.header.len(), s.data_bytes, &s.metadata)).collect();
        // What is said beside the tensors of how weights are quantised decides what they decode to.
        let coded = |m: &Arc<Checkpoint>| {
            let said: Vec<String> =
                m.tensors.iter().flat_map(|t| t.coded()).map(|c| format!("{:?}", c.coding)).collect();
            crate::digest::hex(crate::digest::of_bytes(said.join(";").as_bytes()))
        };
        let coded: Vec<String> = self.models.iter().filter(|m| m.is_decoded()).map(coded).collect();
        let mut head = json!({"format": 3, "headers": headers, "labels": self.labels, "shards": shards});
        if !coded.is_empty() {
            head["coded"] = json!(coded);
        }
        head.to_string()
    }

    /// The tensors that `other` makes too: of the same inputs, in the same way, at the same place of the same file. Of tensors that
    /// share statistics all must be; those whose changes are scaled by what a whole layer is never are.
    pub fn alike(&self, other: &Self) -> Vec<usize> {
        let rows = |p: &Self| p.vocabulary.as_ref().map(|v| v.to_json());
        if self.head() != other.head() || files(self) != files(other) || rows(self) != rows(other) {
            return Vec::new();
        }
        let others: HashMap<&str, &TensorPlan> = other.tensors.iter().map(|t| (&*t.name, t)).collect();
        let same = |t: &TensorPlan| {
            let scaled = matches!(&t.action, Action::Compute { params, .. } if larv::gate(params).is_some());
            !scaled && others.get(&*t.name).is_some_and(|o| self.said(t) == other.said(o))
        };
        let same: Vec<bool> = self.tensors.iter().map(same).collect();
        let whole = |group: usize| {
            let (own, its) = (&self.groups[group].tensors, other.groups.get(group).map(|g| g.tensors.len()));
            Some(own.len()) == its && own.iter().all(|t| same[*t])
        };
        let whole: Vec<bool> = (0..self.groups.len()).map(whole).collect();
        let grouped = |t: usize| match self.tensors[t].action {
            Action::Compute { group: Some(group), .. } => whole[group],
            _ => true,
        };
        (0..self.tensors.len()).filter(|t| same[*t] && grouped(*t)).collect()
    }
}

/// Every file that is read, in the state that it was in when the plan was made.
fn files(plan: &Plan) -> Vec<(&Path, Identity)> {
    plan.models.iter().flat_map(|m| &m.files).map(|f| (&*f.path, f.identity)).collect()
}
