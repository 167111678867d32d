//! Converts modes and coverages of searches to protobuf and back.

use std::time::Duration;

use super::decode::{self, UnexpectedReply};
use super::encode;
use crate::journal::{CameraCoverage, MeaningCoverage, SearchCoverage, SearchMode};
use crate::proto;

pub fn encode_mode(mode: SearchMode) -> proto::SearchMode {
    match mode {
        SearchMode::Fused => proto::SearchMode::Fused,
        SearchMode::Words => proto::SearchMode::Words,
        SearchMode::Meaning => proto::SearchMode::Meaning,
    }
}

/// Decodes a mode. Returns `None` if it is not set.
pub fn decode_mode(from: i32) -> Result<Option<SearchMode>, UnexpectedReply> {
    match proto::SearchMode::try_from(from) {
        Ok(proto::SearchMode::Unspecified) => Ok(None),
        Ok(proto::SearchMode::Fused) => Ok(Some(SearchMode::Fused)),
        Ok(proto::SearchMode::Words) => Ok(Some(SearchMode::Words)),
        Ok(proto::SearchMode::Meaning) => Ok(Some(SearchMode::Meaning)),
        Err(_) => Err(UnexpectedReply("mode")),
    }
}

pub fn encode_coverage(from: SearchCoverage) -> proto::SearchCoverage {
    let camera = |CameraCoverage { camera, recorded }| proto::CameraCoverage {
        camera,
        recorded_seconds: recorded.as_secs_f64(),
    };
    let meaning = |from: MeaningCoverage| proto::MeaningCoverage {
        events_without_vector: from.without_vector,
        is_lower_bound: from.is_lower_bound,
        is_loading: from.is_loading,
        since: from.since.and_then(encode::time),
    };
    proto::SearchCoverage {
        asked: from.asked.map(encode::span),
        cameras: from.cameras.into_iter().map(camera).collect(),
        meaning: from.meaning.map(meaning),
    }
}

pub fn decode_coverage(from: proto::SearchCoverage) -> Result<SearchCoverage, UnexpectedReply> {
    let camera = |proto::CameraCoverage { camera, recorded_seconds }| {
        let recorded = Duration::try_from_secs_f64(recorded_seconds);
        let recorded = recorded.map_err(|_| UnexpectedReply("recorded_seconds"))?;
        Ok(CameraCoverage { camera, recorded })
    };
    let meaning = |from: proto::MeaningCoverage| {
        Ok(MeaningCoverage {
            without_vector: from.events_without_vector,
            is_lower_bound: from.is_lower_bound,
            is_loading: from.is_loading,
            since: decode::optional_time(from.since, "since")?,
        })
    };
    Ok(SearchCoverage {
        asked: from.asked.map(|span| decode::span(Some(span), "asked")).transpose()?,
        cameras: from.cameras.into_iter().map(camera).collect::<Result<_, _>>()?,
        meaning: from.meaning.map(meaning).transpose()?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::frame::Span;

    #[test]
    fn coverages_survive_the_wire() {
        let time = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let coverage = SearchCoverage {
            asked: Some(Span { from: time(100), to: time(200) }),
            cameras: vec![CameraCoverage {
                camera: "gate".into(),
                recorded: Duration::from_secs(90),
            }],
            meaning: Some(MeaningCoverage {
                without_vector: 7,
                is_lower_bound: true,
                is_loading: true,
                since: Some(time(150)),
            }),
        };
        assert_eq!(decode_coverage(encode_coverage(coverage.clone())).unwrap(), coverage);
        let empty = SearchCoverage::default();
        assert_eq!(decode_coverage(encode_coverage(empty.clone())).unwrap(), empty);
    }

    #[test]
    fn modes_survive_the_wire() {
        for mode in [SearchMode::Fused, SearchMode::Words, SearchMode::Meaning] {
            assert_eq!(decode_mode(encode_mode(mode).into()).unwrap(), Some(mode));
        }
        assert_eq!(decode_mode(0).unwrap(), None);
        assert!(decode_mode(9).is_err());
    }
}
