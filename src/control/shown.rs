//! The answers of the control socket as people read them.

use serde_json::Value;

use crate::text::figures::{NONE, age, latency, rate, size};
use crate::text::is_hidden;
use crate::text::table::{Alignment, table};

/// Returns what was done, in one line or more.
pub(super) fn done(document: &Value) -> String {
    let lines = document["done"].as_str().into_iter().flat_map(str::lines);
    lines.map(|line| text(&line.into()) + "\n").collect()
}

/// Returns the status: a line about the balancer, a table of backends, and what was set at run time.
pub(super) fn status(status: &Value) -> String {
    let clients = &status["clients"];
    let head = format!(
        "lb {} at {}: {}{}, for {}; {} HTTP and {} Redis clients, {} requests/s\n\n",
        text(&status["version"]),
        text(&status["listen"]),
        text(&status["phase"]),
        if status["ready"] == true { "" } else { ", NOT READY" },
        time(&status["uptime_seconds"]),
        text(&clients["http"]),
        text(&clients["resp"]),
        requests(status),
    );
    let columns = [
        ("backend", Alignment::Left),
        ("state", Alignment::Left),
        ("for", Alignment::Right),
        ("weight", Alignment::Right),
        ("leases", Alignment::Right),
        ("requests/s", Alignment::Right),
        ("p99 ms", Alignment::Right),
        ("set at run time", Alignment::Left),
        ("reason", Alignment::Left),
    ];
    let backends = status["backends"].as_array().into_iter().flatten();
    let rows: Vec<Vec<String>> = backends.map(backend_row).collect();
    let sources = status["sources"].as_array().into_iter().flatten();
    let sources: String = sources.map(source_line).collect();
    let removed = list(&status["removed_backends"]);
    let removed = match removed.is_empty() {
        true => String::new(),
        false => format!("\nremoved at run time: {removed}\n"),
    };
    let sources = if sources.is_empty() { sources } else { format!("\n{sources}") };
    head + &table(&columns, &rows) + &sources + &removed
}

fn source_line(source: &Value) -> String {
    let name = text(&source["name"]);
    let count = source["servers"].as_array().map_or(0, Vec::len);
    match &source["error"] {
        Value::Null => format!("{name}: {count} servers\n"),
        error => format!("{name}: no list ({}); the last one had {count} servers\n", text(error)),
    }
}

fn backend_row(backend: &Value) -> Vec<String> {
    let overrides = &backend["overrides"];
    let set = [
        (overrides["added"] == true).then_some("added"),
        (!overrides["weight"].is_null()).then_some("weight"),
        match backend["admin"].as_str() {
            Some("drain") => Some("drain"),
            Some("maint") => Some("maint"),
            _ => None,
        },
    ];
    vec![
        text(&backend["name"]),
        text(&backend["state"]),
        time(&backend["state_seconds"]),
        text(&backend["weight"]),
        text(&backend["leases"]),
        requests(backend),
        latency(backend["latency_ms"]["p99"].as_f64()),
        set.into_iter().flatten().collect::<Vec<_>>().join(", "),
        text(&backend["reason"]),
    ]
}

/// Returns the clients as a table.
pub(super) fn clients(document: &Value) -> String {
    let columns = [
        ("id", Alignment::Right),
        ("address", Alignment::Left),
        ("protocol", Alignment::Left),
        ("name", Alignment::Left),
        ("user", Alignment::Left),
        ("connected", Alignment::Right),
        ("idle", Alignment::Right),
        ("backend", Alignment::Left),
        ("doing", Alignment::Left),
        ("command", Alignment::Left),
        ("memory", Alignment::Right),
    ];
    let clients = document["clients"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |client: &Value| {
        vec![
            text(&client["id"]),
            text(&client["address"]),
            text(&client["protocol"]),
            text(&client["name"]),
            text(&client["user"]),
            time(&client["connected_seconds"]),
            time(&client["idle_seconds"]),
            text(&client["backend"]),
            text(&client["doing"]),
            text(&client["command"]),
            size(client["memory_bytes"].as_u64().unwrap_or(0)),
        ]
    };
    let rows: Vec<_> = clients.iter().map(row).collect();
    let total = document["total"].as_u64().unwrap_or(0);
    let shown = clients.len() as u64;
    let more = match total > shown {
        true => format!("\n{shown} of {total} clients; --limit {total} shows all\n"),
        false => String::new(),
    };
    table(&columns, &rows) + &more
}

/// Returns a value as text; `-` for none.
fn text(value: &Value) -> String {
    let text = match value {
        Value::Null => NONE.to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    text.chars().map(|c| if is_hidden(c) { '?' } else { c }).collect()
}

fn list(values: &Value) -> String {
    let values = values.as_array().into_iter().flatten();
    values.map(text).collect::<Vec<_>>().join(", ")
}

/// Returns the requests a second of the balancer or of a backend.
fn requests(of: &Value) -> String {
    of["requests"]["per_second"].as_f64().map_or(NONE.to_owned(), rate)
}

/// Returns a number of seconds as a time.
fn time(seconds: &Value) -> String {
    seconds.as_f64().map_or(NONE.to_owned(), age)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_status_is_a_table_that_says_what_was_set_at_run_time() {
        let backend = |name, admin, weight: Option<u16>| {
            json!({
                "name": name, "state": "up", "state_seconds": 61.4, "admin": admin, "weight": weight.unwrap_or(1),
                "leases": 2, "requests": {"per_second": 1.5}, "latency_ms": {"p99": null},
                "overrides": {"added": false, "weight": weight}, "reason": "set by\u{202e} an operator",
            })
        };
        let document = json!({
            "version": "1", "listen": "127.0.0.1:1310", "phase": "serving", "ready": false, "uptime_seconds": 90_061.0,
            "clients": {"http": 1, "resp": 2}, "requests": {"per_second": 3.0},
            "backends": [backend("h:1", "ready", None), backend("h:2", "drain", Some(5))],
            "removed_backends": ["h:3"],
        });
        let text = status(&document);
        let lines: Vec<&str> = text.lines().collect();
        let head = "lb 1 at 127.0.0.1:1310: serving, NOT READY, for 1 d 1 h; 1 HTTP and 2 Redis clients, \
                    3.0 requests/s";
        assert_eq!(lines[0], head);
        assert!(
            lines[3].starts_with("h:1      up     1 min 1 s       1       2         1.5       -"),
            "{text}"
        );
        assert!(lines[4].contains("weight, drain") && lines[4].ends_with("set by? an operator"));
        assert_eq!(lines[6], "removed at run time: h:3");
    }

    #[test]
    fn a_part_of_the_clients_is_said_to_be_one() {
        let client = json!({
            "id": 7, "address": "127.0.0.1:5", "protocol": null, "name": null, "user": null, "connected_seconds": 0.3,
            "idle_seconds": null, "backend": null, "doing": "idle", "command": null, "memory_bytes": 4096,
        });
        let text = clients(&json!({"total": 9, "clients": [client]}));
        assert!(text.contains("127.0.0.1:5") && text.contains("4.0 KiB"), "{text}");
        assert!(text.ends_with("\n1 of 9 clients; --limit 9 shows all\n"), "{text}");
    }
}
