//! Compares a hash with its row.

use std::collections::HashMap;

use redis::Value;

use super::dataset::Row;

/// Compares the reply `found` with `row`; `fields` has each field's number. The error says how they
/// differ.
pub(super) fn compare(
    found: &Value,
    row: &Row,
    fields: &HashMap<&[u8], usize>,
) -> Result<(), String> {
    let Value::Array(found) = found else {
        return Err("is not a hash".into());
    };
    if found.is_empty() {
        return Err("is missing".into());
    }
    if found.len() != 2 * fields.len() {
        return Err(format!("has {} fields instead of {}", found.len() / 2, fields.len()));
    }
    for pair in found.chunks_exact(2) {
        let [Value::BulkString(name), Value::BulkString(value)] = pair else {
            return Err("is not a hash".into());
        };
        let expected = fields.get(name.as_slice()).and_then(|&index| row.value(index));
        if expected != Some(value) {
            let name = String::from_utf8_lossy(name);
            return Err(format!("has another value in field {name:?}"));
        }
    }
    Ok(())
}
