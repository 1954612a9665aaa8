//! Refuses HTTP/1 heads that two parsers may read differently (RFC 9112 sections 2.2, 3.2 and 6.3).
//!
//! hyper accepts some of them, and its requests do not show it: a bare LF, a fragment, equal lengths, a length behind
//! `chunked`. A proxy in front that reads them in another way could be made to smuggle requests.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use memchr::memchr;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Verdicts on the heads of one connection, in their order.
pub struct HeadVerdicts {
    /// Requests that were handled.
    handled: AtomicU64,
    /// Number of the first invalid head.
    invalid: AtomicU64,
}

impl HeadVerdicts {
    /// Whether the head of the next request is valid. To be called once for each request.
    pub fn next_is_valid(&self) -> bool {
        self.handled.fetch_add(1, Ordering::Relaxed) < self.invalid.load(Ordering::Relaxed)
    }
}

/// A stream whose heads are checked as they are read. An upgrade takes the stream out.
pub struct HeadCheck<S> {
    stream: S,
    verdicts: Arc<HeadVerdicts>,
    scanner: Scanner,
    /// Heads that ended.
    heads: u64,
}

impl<S> HeadCheck<S> {
    pub fn new(stream: S) -> (Self, Arc<HeadVerdicts>) {
        let verdicts = Arc::new(HeadVerdicts { handled: AtomicU64::new(0), invalid: AtomicU64::new(u64::MAX) });
        (Self { stream, verdicts: verdicts.clone(), scanner: Scanner::default(), heads: 0 }, verdicts)
    }

    pub fn into_inner(self) -> S {
        self.stream
    }

    fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            match self.scanner.scan(bytes) {
                Ok((rest, has_ended)) => {
                    bytes = rest;
                    self.heads += u64::from(has_ended);
                }
                Err(Invalid) => {
                    // It is the last request of its connection.
                    self.scanner.step = Step::Over;
                    return self.verdicts.invalid.store(self.heads, Ordering::Relaxed);
                }
            }
        }
    }
}

#[derive(Debug, PartialEq)]
struct Invalid;

#[derive(Default)]
struct Scanner {
    step: Step,
    /// The start of a line whose end has not arrived. hyper bounds the head.
    line: Vec<u8>,
    length: Option<u64>,
    is_chunked: bool,
}

#[derive(Default)]
enum Step {
    #[default]
    RequestLine,
    Fields,
    /// So many bytes of a body precede the next head.
    Body(u64),
    /// No request follows that is handled.
    Over,
}

impl Scanner {
    /// Reads one line, or the bytes of a body. Returns the bytes behind it, and whether a head has ended.
    fn scan<'a>(&mut self, bytes: &'a [u8]) -> Result<(&'a [u8], bool), Invalid> {
        match self.step {
            Step::Over => return Ok((&[], false)),
            Step::Body(left) => {
                let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                self.step = if left == taken as u64 { Step::RequestLine } else { Step::Body(left - taken as u64) };
                return Ok((&bytes[taken..], false));
            }
            Step::RequestLine | Step::Fields => {}
        }
        let Some(end) = memchr(b'\n', bytes) else {
            self.line.extend_from_slice(bytes);
            return Ok((&[], false));
        };
        let (part, rest) = bytes.split_at(end + 1);
        let mut whole = std::mem::take(&mut self.line);
        let line = if whole.is_empty() {
            part
        } else {
            whole.extend_from_slice(part);
            &whole
        };
        let line = line.strip_suffix(b"\r\n").ok_or(Invalid)?;
        match self.step {
            // Section 2.2: empty lines before a request are ignored.
            Step::RequestLine if line.is_empty() => {}
            Step::RequestLine if memchr(b'#', line).is_some() => return Err(Invalid),
            Step::RequestLine => self.step = Step::Fields,
            _ if line.is_empty() => {
                let (length, is_chunked) = (self.length.take(), std::mem::take(&mut self.is_chunked));
                self.step = match length {
                    // The end of a chunked body is not looked for: its request is the last of the connection.
                    _ if is_chunked => Step::Over,
                    Some(length @ 1..) => Step::Body(length),
                    _ => Step::RequestLine,
                };
                return Ok((rest, true));
            }
            _ => self.field(line)?,
        }
        Ok((rest, false))
    }

    /// Section 6.3: one length, or `chunked` once.
    fn field(&mut self, line: &[u8]) -> Result<(), Invalid> {
        // Other fields do not frame a message.
        if !matches!(line[0], b'C' | b'c' | b'T' | b't') {
            return Ok(());
        }
        let Some(colon) = memchr(b':', line) else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let is_framed = self.is_chunked || self.length.is_some();
        if name.eq_ignore_ascii_case(b"content-length") {
            let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let length = digits.and_then(|digits| digits.parse().ok()).filter(|_| !is_framed);
            self.length = Some(length.ok_or(Invalid)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if is_framed || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Invalid);
            }
            self.is_chunked = true;
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HeadCheck<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.scan(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HeadCheck<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of valid heads, and whether an invalid one follows; the same for any split into reads.
    fn heads(bytes: &[u8]) -> (u64, bool) {
        let of = |size: usize| {
            let (mut check, verdicts) = HeadCheck::new(());
            bytes.chunks(size).for_each(|chunk| check.scan(chunk));
            (check.heads, verdicts.invalid.load(Ordering::Relaxed) == check.heads)
        };
        let whole = of(bytes.len());
        for size in [1, 2, 3, 7, 16] {
            assert_eq!(of(size), whole, "reads of {size} bytes");
        }
        whole
    }

    #[test]
    fn heads_behind_bodies_are_checked() {
        let post = b"\r\nPOST /a HTTP/1.1\r\nHost: x\r\ncontent-LENGTH: 4 \r\n\r\n\n\n#:";
        let get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(heads(&[&post[..], get, post, post, get].concat()), (5, false));
        assert_eq!(heads(&[&post[..], get, b"GET /#a HTTP/1.1\r\n\r\n", get].concat()), (2, true));
        let chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n";
        assert_eq!(heads(&[&get[..], chunked, b"1\r\n\n\r\n0\r\n\r\n"].concat()), (2, false));
    }

    #[test]
    fn ambiguous_heads_are_invalid() {
        let invalid = [
            "Content-Length: 1\r\nContent-Length: 1",
            "Content-Length: 1, 1",
            "Content-Length: +1",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 1",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding:",
            "A: b\nC: d",
            "A: b\n",
        ];
        for fields in invalid {
            let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
            assert_eq!(heads(head.as_bytes()), (0, true), "{fields:?}");
        }
        for head in ["GET / HTTP/1.1\nHost: x\r\n\r\n", "GET / HTTP/1.1\r\nHost: x\r\n\n", "\nGET / HTTP/1.1\r\n\r\n"] {
            assert_eq!(heads(head.as_bytes()), (0, true), "{head:?}");
        }
    }
}
