//! The body of error responses.

use std::borrow::Cow;

use serde::Serialize;

use super::target::KeyQuery;
use crate::render::json::TextOrBase64;

/// The body of every error response, as JSON.
#[derive(Debug, Default, Serialize)]
pub struct ErrorBody<'a> {
    /// What is wrong and what to do.
    pub(crate) error: Cow<'a, str>,
    /// The requested key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<TextOrBase64<'a>>,
    /// The requested field.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) field: Option<TextOrBase64<'a>>,
    /// The value's type, as `TYPE` names it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// The backends that were tried.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) backends: Vec<BackendFailure<'a>>,
}

/// How one backend failed.
#[derive(Debug, Serialize)]
pub(crate) struct BackendFailure<'a> {
    /// Name of the backend: never with a password.
    pub(crate) backend: Cow<'a, str>,
    /// Reason why it did not answer.
    pub(crate) error: String,
}

impl<'a> ErrorBody<'a> {
    /// Creates an error that one sentence explains.
    pub fn new(error: impl Into<Cow<'a, str>>) -> Self {
        Self { error: error.into(), ..Self::default() }
    }

    /// Creates an error about what this query asks for.
    pub(crate) fn about(query: &'a KeyQuery, error: impl Into<Cow<'a, str>>) -> Self {
        let key = Some(TextOrBase64(&query.key));
        let field = query.field.as_deref().map(TextOrBase64);
        Self { key, field, ..Self::new(error) }
    }
}
