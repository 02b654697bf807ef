use std::borrow::Cow;

use serde::Serialize;

use crate::render::json::TextOrBase64;

/// The body of every error: what is wrong, and where it helps, with what.
#[derive(Debug, Default, Serialize)]
pub struct ErrorBody<'a> {
    /// What is wrong and what to do.
    pub error: Cow<'a, str>,
    /// The key that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<TextOrBase64<'a>>,
    /// The field that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<TextOrBase64<'a>>,
    /// The value's type, as `TYPE` names it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'a str>,
    /// The backends that were tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<BackendFailure<'a>>,
}

/// How one backend failed.
#[derive(Debug, Serialize)]
pub struct BackendFailure<'a> {
    /// Its name: never a password.
    pub backend: Cow<'a, str>,
    /// Why it did not answer.
    pub error: String,
}

impl<'a> ErrorBody<'a> {
    /// An error that one sentence explains.
    pub fn new(error: impl Into<Cow<'a, str>>) -> Self {
        Self { error: error.into(), ..Self::default() }
    }
}
