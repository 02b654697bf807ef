//! What a test puts into Redis, and the forms in which it must come back.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

/// Bytes as they stand in JSON.
pub fn shown(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => json!({"base64": BASE64_STANDARD.encode(bytes)}),
    }
}

/// Bytes as they stand in a path or a parameter: every one of them encoded.
pub fn encoded(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("%{byte:02X}")).collect()
}

/// The same value whatever the order of its arrays, for those that have no order in Redis.
pub fn unordered(mut value: Value) -> Value {
    if let Value::Array(items) = &mut value {
        items.sort_by_cached_key(Value::to_string);
    }
    value
}

/// The types of values.
pub const TYPES: [&str; 6] = ["string", "hash", "list", "set", "zset", "stream"];

/// A value of any type, made of strings.
#[derive(Debug, Clone)]
pub struct Sample {
    pub kind: &'static str,
    /// The elements: one of a string; of a hash or stream every second is a value; of a zset each
    /// has the score 1.
    pub strings: Vec<Vec<u8>>,
}

impl Sample {
    pub fn new(kind: &'static str, strings: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        let most = if kind == "string" { 1 } else { usize::MAX };
        Self { kind, strings: strings.into_iter().map(Into::into).take(most).collect() }
    }

    /// The command that writes it to `key`, where nothing is yet.
    pub fn write(&self, key: &[u8]) -> redis::Cmd {
        let (name, before): (&str, &[&str]) = match self.kind {
            "string" => ("SET", &[]),
            "hash" => ("HSET", &[]),
            "list" => ("RPUSH", &[]),
            "set" => ("SADD", &[]),
            "zset" => ("ZADD", &[]),
            "stream" => ("XADD", &["1-1"]),
            other => panic!("no such type: {other}"),
        };
        let mut command = redis::cmd(name);
        command.arg(key).arg(before);
        for string in &self.strings {
            if self.kind == "zset" {
                command.arg("1");
            }
            command.arg(string.as_slice());
        }
        command
    }

    /// Its JSON.
    pub fn json(&self) -> Value {
        let pairs = || self.strings.chunks(2).map(|pair| (&pair[0], &pair[1]));
        let shown_all = || self.strings.iter().map(|string| shown(string));
        let names_are_text = || pairs().all(|(name, _)| std::str::from_utf8(name).is_ok());
        match self.kind {
            "string" => shown(&self.strings[0]),
            "hash" if names_are_text() => pairs()
                .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), shown(value)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
            "hash" => pairs()
                .map(|(name, value)| json!({"field": shown(name), "value": shown(value)}))
                .collect(),
            "zset" => {
                let mut members = self.strings.clone();
                members.sort_unstable();
                members.iter().map(|m| json!({"member": shown(m), "score": 1})).collect()
            }
            "stream" => {
                let fields: Value =
                    pairs().map(|(name, value)| json!([shown(name), shown(value)])).collect();
                json!([{"id": "1-1", "fields": fields}])
            }
            _ => shown_all().collect(),
        }
    }

    /// Whether `answer` is its JSON; the order of what has none in Redis does not count.
    pub fn is(&self, answer: &Value) -> bool {
        match self.kind {
            "set" | "hash" => unordered(answer.clone()) == unordered(self.json()),
            _ => *answer == self.json(),
        }
    }
}
