//! The span of a client that asks a question, as the header `traceparent` of W3C Trace Context
//! names it. The trace of the answer continues the client's trace.

/// The name of the header.
pub const HEADER: &str = "traceparent";

/// A span of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    pub trace_id: u128,
    pub span_id: u64,
    /// True if the client records its trace.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads a header's value. Returns `None` if it is not valid: then a trace of its own begins,
    /// as the standard demands.
    pub fn parse(text: &str) -> Option<TraceParent> {
        let mut fields = text.trim().split('-');
        let version = hex(fields.next()?, 2)?;
        let trace_id = hex(fields.next()?, 32)?;
        let span_id = u64::try_from(hex(fields.next()?, 16)?).ok()?;
        let flags = hex(fields.next()?, 2)?;
        // Later versions may add fields.
        let is_valid_version = version != 0xff && (version > 0 || fields.next().is_none());
        let is_valid = is_valid_version && trace_id != 0 && span_id != 0;
        is_valid.then_some(TraceParent { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }
}

/// Reads a number of lower-case hexadecimal digits.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let fits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_number = text.len() == digits && text.bytes().all(fits);
    is_number.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_valid_header_is_read() {
        let parent = TraceParent::parse(&format!("00-{ID}-b7ad6b7169203331-01")).unwrap();
        assert_eq!(format!("{:032x}", parent.trace_id), ID);
        assert_eq!(format!("{:016x}", parent.span_id), "b7ad6b7169203331");
        assert!(parent.is_sampled);
        let parent = TraceParent::parse(&format!("00-{ID}-b7ad6b7169203331-02")).unwrap();
        assert!(!parent.is_sampled);
        assert!(TraceParent::parse(&format!("01-{ID}-b7ad6b7169203331-01-more")).is_some());
    }

    #[test]
    fn an_invalid_header_is_ignored() {
        for text in [
            String::new(),
            "-".into(),
            format!("00-{ID}-b7ad6b7169203331"),
            format!("00-{ID}-b7ad6b7169203331-01-more"),
            format!("ff-{ID}-b7ad6b7169203331-01"),
            format!("00-{ID}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{}-b7ad6b7169203331-01", ID.to_uppercase()),
            format!("00-+{}-b7ad6b7169203331-01", &ID[1..]),
            format!("00-{ID}-b7ad6b716920333é-01"),
        ] {
            assert_eq!(TraceParent::parse(&text), None, "{text:?}");
        }
    }
}
