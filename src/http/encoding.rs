//! Bodies that are compressed, for clients that ask for it: gzip and zstd.

use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;

use super::accept::Range;

/// Shortest body that is compressed: of a shorter one, the head is most of what is sent.
pub(super) const MIN_ENCODED_BYTES: usize = 1024;

/// Levels: the fastest. The next ones take a multiple of the time for some percent.
const GZIP_LEVEL: u32 = 1;
const ZSTD_LEVEL: i32 = 1;

/// The logarithm of the bytes that zstd looks back, which bounds its memory, and that of its clients.
const ZSTD_WINDOW_LOG: u32 = 17;

/// Bytes at the beginning of a body that show whether it is compressed already.
const SAMPLE_BYTES: usize = 4096;

/// Bits that a byte of text, JSON or HTML says, at most. Images, archives and what is encrypted have more than 7.5.
const MAX_ENTROPY: f32 = 7.0;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `gzip`
    Gzip,
    /// `zstd`
    Zstd,
}

impl Encoding {
    /// Returns the encoding that a client prefers whose `Accept-Encoding` has these ranges; `None` if it asks for none that we
    /// have, or rather for none at all. Where two are as welcome, it is zstd, which is faster and shorter.
    pub(super) fn preferred<'a>(ranges: impl Iterator<Item = Range<'a>>) -> Option<Self> {
        let (mut gzip, mut zstd, mut identity, mut others) = (None, None, None, None);
        for Range { name, quality, .. } in ranges {
            let is = |known| name.eq_ignore_ascii_case(known);
            let place = match () {
                () if is("gzip") || is("x-gzip") => &mut gzip,
                () if is("zstd") => &mut zstd,
                () if is("identity") => &mut identity,
                () if is("*") => &mut others,
                () => continue,
            };
            *place = Some(quality.max(place.unwrap_or(0)));
        }
        let quality = |named: Option<u16>| named.or(others).unwrap_or(0);
        let (gzip, zstd) = (quality(gzip), quality(zstd));
        let best = gzip.max(zstd);
        if best == 0 || identity.is_some_and(|identity| identity > best) {
            return None;
        }
        Some(if zstd >= gzip { Self::Zstd } else { Self::Gzip })
    }

    /// Its name in headers.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Compresses a whole body.
    pub(super) fn compress(self, body: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip => {
                let room = Vec::with_capacity(body.len() / 2);
                let mut encoder = GzEncoder::new(room, Compression::new(GZIP_LEVEL));
                encoder.write_all(body)?;
                encoder.finish()
            }
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
        }
    }
}

/// Whether the beginning of a body looks as if compressing were in vain.
pub(super) fn looks_compressed(body: &[u8]) -> bool {
    let sample = &body[..body.len().min(SAMPLE_BYTES)];
    let mut counts = [0_u16; 256];
    for &byte in sample {
        counts[usize::from(byte)] += 1;
    }
    let all = sample.len() as f32;
    let shares = counts.iter().filter(|count| **count > 0).map(|count| f32::from(*count) / all);
    let entropy: f32 = shares.map(|share| -share * share.log2()).sum();
    entropy > MAX_ENTROPY
}

/// Compresses a body that comes in pieces. It takes up to half a megabyte.
pub(super) enum StreamEncoder {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl StreamEncoder {
    pub fn new(encoding: Encoding) -> io::Result<Self> {
        Ok(match encoding {
            Encoding::Gzip => Self::Gzip(GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL))),
            Encoding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(ZSTD_WINDOW_LOG)?;
                Self::Zstd(encoder)
            }
        })
    }

    /// Takes a piece; returns what is compressed by now, which may be nothing.
    pub fn encode(&mut self, piece: &[u8]) -> io::Result<Vec<u8>> {
        Ok(match self {
            Self::Gzip(encoder) => {
                encoder.write_all(piece)?;
                std::mem::take(encoder.get_mut())
            }
            Self::Zstd(encoder) => {
                encoder.write_all(piece)?;
                std::mem::take(encoder.get_mut())
            }
        })
    }

    /// Returns the end.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::accept;

    #[test]
    fn a_client_gets_the_encoding_that_it_prefers() {
        for (accept, expected) in [
            ("gzip", Some(Encoding::Gzip)),
            ("zstd", Some(Encoding::Zstd)),
            ("gzip, deflate", Some(Encoding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Encoding::Zstd)),
            ("zstd;q=0.5, gzip;q=0.8", Some(Encoding::Gzip)),
            ("GZip;q=0.001", Some(Encoding::Gzip)),
            ("x-gzip", Some(Encoding::Gzip)),
            ("*", Some(Encoding::Zstd)),
            ("zstd;q=0, *", Some(Encoding::Gzip)),
            ("gzip;q=0.5, identity;q=0.4", Some(Encoding::Gzip)),
            ("gzip;q=0.5, identity", None),
            ("gzip;q=0", None),
            ("gzip;q=x", None),
            ("*;q=0", None),
            ("br, deflate", None),
            ("identity", None),
            ("", None),
        ] {
            let ranges = accept::ranges([accept.as_bytes()].into_iter());
            assert_eq!(Encoding::preferred(ranges), expected, "{accept}");
        }
    }

    fn decoded(encoding: Encoding, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match encoding {
            Encoding::Gzip => {
                io::copy(&mut flate2::read::MultiGzDecoder::new(bytes), &mut plain).expect("gzip");
            }
            Encoding::Zstd => plain = zstd::stream::decode_all(bytes).expect("zstd"),
        }
        plain
    }

    #[test]
    fn what_is_compressed_is_what_was_there_in_whatever_pieces() {
        let body: Vec<u8> =
            (0..50_000_u32).flat_map(|n| format!("\"actor:{n}\",\n").into_bytes()).collect();
        for encoding in [Encoding::Gzip, Encoding::Zstd] {
            let whole = encoding.compress(&body).expect("memory");
            assert!(whole.len() < body.len() / 2, "{encoding:?}: {}", whole.len());
            assert!(decoded(encoding, &whole) == body);
            for size in [1000, 16 * 1024, body.len()] {
                let mut encoder = StreamEncoder::new(encoding).expect("memory");
                let pieces = body.chunks(size).map(|piece| encoder.encode(piece).expect("memory"));
                let mut bytes: Vec<u8> = pieces.flatten().collect();
                bytes.extend(encoder.finish().expect("memory"));
                assert!(decoded(encoding, &bytes) == body, "{encoding:?} {size}");
            }
        }
    }

    #[test]
    fn what_is_compressed_already_is_told_by_its_bytes() {
        let text = "{\"first_name\": \"Mara\", \"last_name\": \"Ellingworth\"}\n".repeat(100);
        assert!(!looks_compressed(text.as_bytes()));
        assert!(!looks_compressed(&[0; 5000]) && !looks_compressed(b""));
        let mut state = 1_u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        let bytes: Vec<u8> = (0..20_000).map(|_| random()).collect();
        assert!(looks_compressed(&bytes) && looks_compressed(&bytes[..MIN_ENCODED_BYTES]));
        let base64: Vec<u8> = bytes
            .iter()
            .map(|byte| b"ABCDEFGHIJKLMNOPabcdefghijklmnop"[usize::from(byte % 32)])
            .collect();
        assert!(!looks_compressed(&base64));
    }
}
