//! temp
use std::sync::Arc;
use serde_json::{Value, json};
use super::exchange::{Reply, Request};
use super::refusal::Refusal;
use super::service::Service;
type Answer = Result<Reply, Refusal>;
pub(super) fn models(_: &Arc<Service>, _: &Request) -> Answer { Err(Refusal::bad("")) }
pub(super) fn model(_: &Arc<Service>, _: &Request) -> Answer { Err(Refusal::bad("")) }
pub(super) fn chat(_: &Arc<Service>, _: &Request) -> Answer { Err(Refusal::bad("")) }
pub(super) fn complete(_: &Arc<Service>, _: &Request) -> Answer { Err(Refusal::bad("")) }
pub(super) fn error_body(_: &Refusal) -> Value { json!({}) }
