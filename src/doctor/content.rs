//! The content of a key on each server, and whether they differ.

/// A key's type and value on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// As `TYPE` says; `none` if the server has no such key.
    pub kind: String,
    pub expires: bool,
    /// Digest of the value, if it was read.
    pub digest: Option<u64>,
}

impl Content {
    pub fn is_missing(&self) -> bool {
        self.kind == "none"
    }
}

/// A key's content on each server; `None` for a server that failed.
pub type Row = Vec<Option<Content>>;

/// Whether the content on two servers or more is known.
pub fn is_comparable(row: &[Option<Content>]) -> bool {
    row.iter().flatten().count() >= 2
}

/// Whether only the type is known on some server; then only types are compared.
pub fn is_by_type(row: &[Option<Content>]) -> bool {
    row.iter().flatten().any(|content| !content.is_missing() && content.digest.is_none())
}

/// The part of a content that has to be equal: its type, and its digest unless only types are compared.
pub type Fingerprint = (String, Option<u64>);

pub fn fingerprint(content: &Content, row: &[Option<Content>]) -> Fingerprint {
    (content.kind.clone(), content.digest.filter(|_| !is_by_type(row)))
}

pub fn differs(row: &[Option<Content>]) -> bool {
    let mut known = row.iter().flatten().map(|content| fingerprint(content, row));
    let first = known.next();
    known.any(|content| Some(content) != first)
}

/// Whether the servers that have a key agree, and the others may have removed it because it expires.
pub fn is_expiring(row: &[Option<Content>]) -> bool {
    let there: Row = row
        .iter()
        .filter(|content| content.as_ref().is_some_and(|c| !c.is_missing()))
        .cloned()
        .collect();
    there.iter().flatten().all(|content| content.expires) && !differs(&there)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(kind: &str, expires: bool, digest: Option<u64>) -> Option<Content> {
        Some(Content { kind: kind.to_owned(), expires, digest })
    }

    #[test]
    fn values_that_could_not_be_read_everywhere_are_compared_by_type() {
        let large = content("hash", false, None);
        assert!(!differs(&[large.clone(), content("hash", false, Some(1)), None]));
        assert!(differs(&[large.clone(), content("string", false, Some(1))]));
        assert!(differs(&[large, content("none", false, None)]));
        assert!(differs(&[content("hash", false, Some(1)), content("hash", false, Some(2))]));
        assert!(!differs(&[content("hash", true, Some(1)), content("hash", false, Some(1))]));
        assert!(!differs(&[None, None]));
    }

    #[test]
    fn only_what_is_gone_in_some_place_and_will_be_in_all_has_expired() {
        let there = || content("string", true, Some(1));
        let gone = || content("none", false, None);
        assert!(is_expiring(&[there(), gone(), there(), None]));
        assert!(!is_expiring(&[there(), gone(), content("string", true, Some(2))]));
        assert!(!is_expiring(&[content("string", false, Some(1)), gone()]));
    }
}
