//! The transaction that writes a batch of rows.

use super::dataset::Row;
use crate::resp::{command, write};

/// The commands that replace the keys of a batch of rows, as they are sent. All batches use its memory, one after
/// the other.
#[derive(Default)]
pub(super) struct Transaction {
    /// The beginning of all keys.
    prefix: String,
    /// Each field's name as an argument.
    names: Vec<Vec<u8>>,
    rows: usize,
    /// The arguments of `DEL`.
    keys: Vec<u8>,
    hsets: Vec<u8>,
    key: Vec<u8>,
    commands: Vec<u8>,
}

impl Transaction {
    /// Transaction without rows, for keys that begin with `prefix` and hashes with these `fields`.
    pub fn new<'a>(prefix: &str, fields: impl Iterator<Item = &'a str>) -> Self {
        let encode = |name: &str| {
            let mut argument = Vec::new();
            write::bulk(&mut argument, name.as_bytes());
            argument
        };
        let names = fields.map(encode).collect();
        Self { prefix: prefix.to_owned(), names, ..Self::default() }
    }

    /// The number of fields that each row has.
    pub fn fields(&self) -> usize {
        self.names.len()
    }

    /// Adds a row, whose key is replaced whatever it holds.
    pub fn add(&mut self, row: &Row) {
        self.rows += 1;
        row.write_key(&self.prefix, &mut self.key);
        write::bulk(&mut self.keys, &self.key);
        write::array(&mut self.hsets, 2 + 2 * self.names.len());
        write::bulk(&mut self.hsets, b"HSET");
        write::bulk(&mut self.hsets, &self.key);
        for (name, value) in self.names.iter().zip(row.values()) {
            self.hsets.extend_from_slice(name);
            write::bulk(&mut self.hsets, value);
        }
    }

    /// Returns all commands, and removes the rows.
    pub fn take(&mut self) -> &[u8] {
        let out = &mut self.commands;
        out.clear();
        command("MULTI").append_to(out);
        write::array(out, 1 + self.rows);
        write::bulk(out, b"DEL");
        out.append(&mut self.keys);
        out.append(&mut self.hsets);
        command("EXEC").append_to(out);
        self.rows = 0;
        out
    }
}
