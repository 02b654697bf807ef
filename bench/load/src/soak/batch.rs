//! A random pipeline, with the replies that must come.

use std::ops::Range;

use super::Random;
use super::data::{self, Item, Table, bulk};
use crate::wire;

/// Commands in a pipeline, at most.
const MOST_COMMANDS: usize = 32;

#[derive(Default)]
pub struct Batch<'a> {
    /// All commands, to be sent at once.
    pub requests: Vec<u8>,
    /// Where each command is in `requests`.
    places: Vec<Range<usize>>,
    replies: Vec<Reply<'a>>,
    /// Replies that were not known beforehand.
    own: Vec<u8>,
}

enum Reply<'a> {
    Known(&'a [u8]),
    Own(Range<usize>),
}

/// What a session's replies depend on.
pub struct Session {
    pub client: usize,
    pub database: usize,
    pub is_resp3: bool,
    /// How many tokens this client has sent: no two are the same.
    pub tokens: u64,
}

impl<'a> Batch<'a> {
    pub fn refill(&mut self, tables: &'a [Table], session: &mut Session, random: &mut Random) {
        self.requests.clear();
        self.places.clear();
        self.replies.clear();
        self.own.clear();
        for _ in 0..1 + random.below(MOST_COMMANDS) {
            let table = &tables[data::table_index(session.database, session.is_resp3)];
            match random.below(1000) {
                0 => {
                    session.database = random.below(data::DATABASES);
                    self.push_own(&["SELECT", &session.database.to_string()], "+OK\r\n");
                }
                1 => self.push(random.pick(&table.long)),
                2..30 => self.push(random.pick(&table.odd)),
                30..60 => {
                    session.tokens += 1;
                    let token = format!("token {} of client {}", session.tokens, session.client);
                    self.push_own(&["ECHO", &token], &bulk(&token));
                }
                _ => {
                    let items: &Vec<Item> = random.pick(&table.usual);
                    self.push(random.pick(items));
                }
            }
        }
    }

    fn push(&mut self, item: &'a Item) {
        self.push_request(&item.request);
        self.replies.push(Reply::Known(&item.reply));
    }

    fn push_own(&mut self, words: &[&str], reply: &str) {
        self.push_request(&wire::command(words));
        let start = self.own.len();
        self.own.extend(reply.as_bytes());
        self.replies.push(Reply::Own(start..self.own.len()));
    }

    fn push_request(&mut self, request: &[u8]) {
        let start = self.requests.len();
        self.requests.extend(request);
        self.places.push(start..self.requests.len());
    }

    pub fn len(&self) -> usize {
        self.replies.len()
    }

    pub fn request(&self, index: usize) -> &[u8] {
        &self.requests[self.places[index].clone()]
    }

    pub fn reply(&self, index: usize) -> &[u8] {
        match &self.replies[index] {
            Reply::Known(bytes) => bytes,
            Reply::Own(place) => &self.own[place.clone()],
        }
    }

    /// A length at which the last command is cut in two.
    pub fn cut(&self, random: &mut Random) -> usize {
        let last = self.places.last().cloned().unwrap_or_default();
        last.start + 1 + random.below(last.len() - 1)
    }
}
