//! The query of a backend's address: `?db=N`, and for Unix sockets also `user` and `pass`.

use super::address::AddressError;

/// Refuses what a URL has after a `#`, which would be left out without a word.
pub(super) const FRAGMENT: &str =
    "no # belongs to an address: a database comes after a /, and elsewhere # is written %23";

/// The query of an address. The `redis` crate reads it for Unix sockets alone, and passes over it for others.
pub(super) struct AddressQuery<'a>(&'a str);

impl<'a> AddressQuery<'a> {
    /// Splits the query off a text, unless the `?` is in a login.
    pub fn split(text: &'a str) -> (&'a str, Option<Self>) {
        match text.split_once('?').filter(|(_, query)| !query.contains('@')) {
            Some((url, query)) => (url, Some(Self(query))),
            None => (text, None),
        }
    }

    /// Returns the URL that has this query, in the form in which the `redis` crate reads all of it.
    pub fn checked(&self, url: &str) -> Result<String, AddressError> {
        let wrong = |why: &str| Err(AddressError::new(why.to_owned()));
        if self.0.contains('#') {
            return wrong(FRAGMENT);
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let is_unix = scheme == "unix" || scheme.ends_with("+unix");
        let path = rest.split_once('/').map_or("", |(_, path)| path);
        let mut database = Some(path).filter(|path| !is_unix && !path.is_empty());
        for pair in self.0.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("db", number) if number.parse::<u32>().is_err() => {
                    return wrong("db is the number of a database, such as db=3");
                }
                ("db", number) if database.is_some_and(|other| !is_same(other, number)) => {
                    return wrong(
                        "two databases are named: write one number, after the / or as db",
                    );
                }
                ("db", number) => database = Some(number),
                ("user" | "pass", _) if !is_unix => {
                    return wrong(
                        "a login stands before the host, as in redis://USER:PASSWORD@HOST:PORT",
                    );
                }
                _ => {}
            }
        }
        match database {
            Some(number) if !is_unix => {
                let authority = rest.split('/').next().unwrap_or_default();
                Ok(format!("{scheme}://{authority}/{number}"))
            }
            _ => Ok(format!("{url}?{}", self.0)),
        }
    }
}

/// Returns whether two texts are one number.
fn is_same(one: &str, other: &str) -> bool {
    one == other || one.parse::<u32>().is_ok_and(|number| other.parse() == Ok(number))
}

#[cfg(test)]
mod tests {
    use super::super::address::BackendAddress;

    #[test]
    fn what_would_be_passed_over_in_a_url_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("h:1?db=foo", "db is the number of a database"),
            ("redis://h:1?db=", "db is the number of a database"),
            ("redis://h:1?db=-1", "db is the number of a database"),
            ("redis+unix:///r.sock?db=foo", "db is the number of a database"),
            ("redis://h:1/1?db=3", "two databases are named"),
            ("redis://h:1?db=1&db=3", "two databases are named"),
            ("redis://h:1?user=u&pass=hunter2", "redis://USER:PASSWORD@HOST:PORT"),
            ("rediss://h:1?pass=hunter2", "redis://USER:PASSWORD@HOST:PORT"),
            ("redis://h:1#3", "comes after a /"),
            ("redis://h:1/#3", "comes after a /"),
            ("h:1?db=3#", "comes after a /"),
            ("rediss://h:1#insecure", "would trust any server"),
        ] {
            let error = text.parse::<BackendAddress>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
