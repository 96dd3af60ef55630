//! Requests and responses of the status endpoint. Pure: bytes in, bytes out.
//!
//! One request a connection, GET or HEAD, no body. Parsing is httparse's; what a request means is
//! decided here.

use std::net::IpAddr;

/// The most that a request may have, in bytes.
pub(super) const MAX_REQUEST: usize = 4 * 1024;

/// The most header fields that a request may have; browsers send some twenty.
const MAX_HEADERS: usize = 64;

/// A request as far as it matters.
#[derive(Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each answers a question of its own")]
pub(super) struct Request {
    /// Without the query.
    pub(super) path: String,
    /// Only the head of the response is wanted.
    pub(super) is_head: bool,
    /// Whether it was sent to an address or to `localhost`, as a page of another site cannot make a
    /// browser do under a name of its own.
    pub(super) has_plain_host: bool,
    /// Whether a browser sent it on behalf of another site.
    pub(super) is_cross_site: bool,
    /// Whether the `OpenMetrics` format is understood.
    pub(super) takes_open_metrics: bool,
}

/// What there is of a request so far.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// More must come.
    Partial,
    Complete(Request),
    /// This is the answer, whatever follows.
    Refused(Response),
}

/// A response, apart from its `Content-Length`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: &'static str,
    pub(super) content_type: &'static str,
    /// A further header: its name and its value.
    pub(super) header: Option<(&'static str, &'static str)>,
    pub(super) body: String,
}

impl Response {
    pub(super) fn text(status: &'static str, body: &str) -> Self {
        let content_type = "text/plain; charset=utf-8";
        Self { status, content_type, header: None, body: format!("{body}\n") }
    }

    /// The bytes to send.
    pub(super) fn bytes(&self, is_head: bool) -> Vec<u8> {
        let Self { status, content_type, header, body } = self;
        let header = header.map(|(name, value)| format!("{name}: {value}\r\n"));
        // No page elsewhere may use it, no cache keep it, and no browser guess at it.
        let mut bytes = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\
             Connection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
             Cross-Origin-Resource-Policy: same-origin\r\nReferrer-Policy: no-referrer\r\n\
             {}\r\n",
            body.len(),
            header.unwrap_or_default(),
        )
        .into_bytes();
        if !is_head {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

/// Parses what has come so far.
pub(super) fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let too_large = || {
        let text = "the request is too large";
        Parsed::Refused(Response::text("431 Request Header Fields Too Large", text))
    };
    match request.parse(bytes) {
        Ok(httparse::Status::Partial) if bytes.len() >= MAX_REQUEST => too_large(),
        Ok(httparse::Status::Partial) => Parsed::Partial,
        Err(httparse::Error::TooManyHeaders) => too_large(),
        Err(_) => bad("this is no request of HTTP/1"),
        Ok(httparse::Status::Complete(_)) => complete(&request),
    }
}

fn bad(why: &str) -> Parsed {
    Parsed::Refused(Response::text("400 Bad Request", why))
}

fn complete(request: &httparse::Request<'_, '_>) -> Parsed {
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => {
            let mut response = Response::text("405 Method Not Allowed", "only GET and HEAD");
            response.header = Some(("Allow", "GET, HEAD"));
            return Parsed::Refused(response);
        }
    };
    let target = request.path.unwrap_or_default();
    if !target.starts_with('/') {
        return bad("the target must begin with a slash");
    }
    let values = |name: &'static str| {
        let named = request.headers.iter().filter(move |it| it.name.eq_ignore_ascii_case(name));
        named.map(|header| std::str::from_utf8(header.value).unwrap_or("?").trim())
    };
    if values("transfer-encoding").next().is_some() || values("content-length").any(|it| it != "0")
    {
        return bad("a request has no body here");
    }
    let mut hosts = values("host");
    let (host, second) = (hosts.next(), hosts.next());
    if second.is_some() || (host.is_none() && request.version == Some(1)) {
        return bad("a request has exactly one Host");
    }
    let is_foreign = |site: &str| !matches!(site, "same-origin" | "none");
    Parsed::Complete(Request {
        path: target.split(['?', '#']).next().unwrap_or_default().to_owned(),
        is_head,
        has_plain_host: host.is_some_and(is_plain_host),
        is_cross_site: values("sec-fetch-site").any(is_foreign),
        takes_open_metrics: values("accept").any(|it| it.contains("application/openmetrics-text")),
    })
}

/// Whether it is an address or `localhost`, with a port or without one.
fn is_plain_host(host: &str) -> bool {
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    let unwrap = |host: &str| Some(host.strip_prefix('[')?.strip_suffix(']')?.to_owned());
    bare.eq_ignore_ascii_case("localhost")
        || unwrap(bare).as_deref().unwrap_or(bare).parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Parsed::Complete(request) => request,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refusal(text: &str) -> &'static str {
        match parse(text.as_bytes()) {
            Parsed::Refused(response) => response.status,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_complete_at_its_last_byte_and_not_before() {
        let text = "GET /metrics?x=1 HTTP/1.1\r\nHost: a-chat.example:9090\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..end]), Parsed::Partial, "{end}");
        }
        let request = request(text);
        assert_eq!((request.path.as_str(), request.is_head), ("/metrics", false));
        assert!(!request.has_plain_host && !request.is_cross_site && !request.takes_open_metrics);
    }

    #[test]
    fn what_is_no_plain_request_is_refused() {
        let long = format!("GET /{} HTTP/1.1\r\n", "x".repeat(MAX_REQUEST));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        for (text, status) in [
            ("POST / HTTP/1.1\r\nHost: x\r\n\r\n", "405 Method Not Allowed"),
            ("GET http://localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n", "400 Bad Request"),
            ("GET * HTTP/1.1\r\nHost: localhost\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", "400 Bad Request"),
            ("GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "400 Bad Request"),
            ("GET / HTTP/2.0\r\n\r\n", "400 Bad Request"),
            ("alice\n", "400 Bad Request"),
            (&long, "431 Request Header Fields Too Large"),
            (&many, "431 Request Header Fields Too Large"),
        ] {
            assert_eq!(refusal(text), status, "{text:?}");
        }
        request("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        request("HEAD / HTTP/1.0\r\n\r\n");
    }

    #[test]
    fn a_plain_host_is_an_address_or_localhost() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:9090", "10.0.0.1", "[::1]:80", "[::1]"]
        {
            assert!(is_plain_host(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example:80", "127.0.0.1.evil", "a:b"] {
            assert!(!is_plain_host(host), "{host}");
        }
    }

    #[test]
    fn a_browser_tells_for_which_site_it_asks() {
        for (site, is_cross_site) in
            [("none", false), ("same-origin", false), ("same-site", true), ("cross-site", true)]
        {
            let text = format!("GET / HTTP/1.1\r\nHost: ::1\r\nSec-Fetch-Site: {site}\r\n\r\n");
            assert_eq!(request(&text).is_cross_site, is_cross_site, "{site}");
        }
    }

    #[test]
    fn the_head_alone_has_the_length_of_the_whole() {
        let response = Response::text("200 OK", "running");
        let (head, whole) = (response.bytes(true), response.bytes(false));
        assert_eq!([&head[..], b"running\n"].concat(), whole);
        assert!(String::from_utf8_lossy(&head).contains("\r\nContent-Length: 8\r\n"));
    }
}
