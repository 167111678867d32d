//! Returns the name of a video's codec as browsers know it: `avc1.64001f` for H.264 (RFC 6381),
//! `hvc1.1.6.L93.B0` for H.265 (ISO/IEC 14496-15, annex E). Pure.

use std::fmt::Write as _;

/// Reads the codec from the head of an MP4 file, or returns `None` if it has no description of one.
pub fn codec_string(head: &[u8]) -> Option<String> {
    let after = |kind: &[u8; 4]| {
        let at = head.windows(4).position(|window| window == kind)?;
        head.get(at + 4..)
    };
    match after(b"avcC") {
        Some(described) => h264(described),
        None => h265(after(b"hvcC")?),
    }
}

/// The profile, the constraints and the level follow the version.
fn h264(described: &[u8]) -> Option<String> {
    let [profile, constraints, level] = described.get(1..4)?.try_into().ok()?;
    Some(format!("avc1.{profile:02x}{constraints:02x}{level:02x}"))
}

fn h265(described: &[u8]) -> Option<String> {
    let profile = *described.get(1)?;
    let compatible = u32::from_be_bytes(described.get(2..6)?.try_into().ok()?);
    let (constraints, level) = (described.get(6..12)?, described.get(12)?);
    let space = ["", "A", "B", "C"][usize::from(profile >> 6)];
    let tier = if profile & 0x20 == 0 { 'L' } else { 'H' };
    let (number, compatible) = (profile & 0x1f, compatible.reverse_bits());
    let mut text = format!("hvc1.{space}{number}.{compatible:X}.{tier}{level}");
    let used = constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in &constraints[..used] {
        let _ = write!(text, ".{byte:X}");
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_becomes_the_name_of_the_codec() {
        let h264 = [&b"....avc1....avcC"[..], &[1, 0x64, 0, 0x1f, 0xff]].concat();
        assert_eq!(codec_string(&h264).as_deref(), Some("avc1.64001f"));
        let main = [1, 1, 0x60, 0, 0, 0, 0xb0, 0, 0, 0, 0, 0, 93, 0xf0];
        let h265 = [&b"....hvc1....hvcC"[..], &main].concat();
        assert_eq!(codec_string(&h265).as_deref(), Some("hvc1.1.6.L93.B0"));
        let high = [1, 0x62, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 120];
        let h265 = [&b"hvcC"[..], &high].concat();
        assert_eq!(codec_string(&h265).as_deref(), Some("hvc1.A2.4.H120"));
    }

    #[test]
    fn a_head_without_a_description_has_no_codec() {
        for head in [&b""[..], b"ftypmoov", b"avcC", b"avcC\x01\x64\x00", b"hvcC\x01\x01\x60"] {
            assert_eq!(codec_string(head), None, "{head:?}");
        }
    }
}
