//! Searches the events that the daemon's journal holds.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::events::{message, page_size};
use super::{ClientError, Daemon, Done, Output, Server, UnexpectedReply, json_line, quietly, text};
use crate::journal::{
    CameraCoverage, EventFilter, MeaningCoverage, SearchCoverage, SearchHit, SearchMode,
};
use crate::proto;
use crate::wire::{decode, search};

/// Maximum number of cameras whose coverage is printed one by one.
const CAMERAS_SHOWN: usize = 6;

/// Prints the best results of a search, at most `limit`, the best first, and the part of the time
/// that was searched.
pub async fn search_events(
    server: impl Into<Server>,
    query: &str,
    mode: Option<SearchMode>,
    filter: &EventFilter,
    limit: usize,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let request = proto::SearchEventsRequest {
        query: query.to_owned(),
        filter: Some(message(filter)),
        page_size: page_size(limit),
        page_token: String::new(),
        mode: mode.map_or(proto::SearchMode::Unspecified, search::encode_mode).into(),
    };
    let reply = daemon.client.search_events(request).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let mode = search::decode_mode(reply.mode)?.ok_or(UnexpectedReply("mode"))?;
    let coverage = search::decode_coverage(reply.coverage.unwrap_or_default())?;
    let hits = reply.results.into_iter().map(hit).collect::<Result<Vec<_>, ClientError>>()?;
    let printed = hits.iter().try_for_each(|hit| match output {
        Output::Text => writeln!(out, "{}", text::hit_line(&hit.event, &hit.snippet)),
        Output::Json => json_line(out, hit),
    });
    quietly(printed.and_then(|()| match output {
        Output::Text => writeln!(out, "{}", coverage_line(&coverage)),
        Output::Json => json_line(out, &CoverageJson { kind: "search_coverage", mode, coverage }),
    }))
    .map(drop)
}

fn hit(result: proto::SearchResult) -> Result<SearchHit, ClientError> {
    let event = Arc::new(decode::event(result.event.ok_or(UnexpectedReply("event"))?)?);
    let proto::SearchResult { snippet, score, words_rank, meaning_rank, similarity, .. } = result;
    Ok(SearchHit { event, snippet, score, words_rank, meaning_rank, similarity })
}

/// Formats the part of the time that was searched, and what the search by meaning cannot find.
fn coverage_line(coverage: &SearchCoverage) -> String {
    let SearchCoverage { asked, cameras, meaning } = coverage;
    let Some(asked) = asked else {
        return "searched nothing: the journal has no events".into();
    };
    let asked = shown(asked.length());
    let of_camera = |CameraCoverage { camera, recorded }: &CameraCoverage| {
        format!("{camera} {}", shown(*recorded))
    };
    let mut line = match cameras.as_slice() {
        [] => format!("searched {asked}, in which there are no captions"),
        [one] => format!("searched {} of {asked} of {}", shown(one.recorded), one.camera),
        few if few.len() <= CAMERAS_SHOWN => {
            let few: Vec<String> = few.iter().map(of_camera).collect();
            format!("searched of {asked}: {}", few.join(", "))
        }
        many => {
            let recorded = || many.iter().map(|camera| camera.recorded);
            let least = shown(recorded().min().unwrap_or_default());
            let most = shown(recorded().max().unwrap_or_default());
            format!("searched {least} to {most} of {asked} of {} cameras", many.len())
        }
    };
    if let Some(MeaningCoverage { without_vector, is_lower_bound, is_loading, since }) = meaning {
        let bound = if *is_lower_bound { "at least " } else { "" };
        match without_vector {
            0 => {}
            1 => line += "; 1 text has no vector yet and is found by its words only",
            more => {
                line += &format!(
                    "; {bound}{more} texts have no vector yet and are found by their words only"
                );
            }
        }
        if *is_loading {
            line += "; vectors are still being loaded: search again";
        }
        if let Some(since) = since {
            let since = humantime::format_rfc3339_seconds(*since);
            line += &format!("; texts until {since} are found by their words only");
        }
    }
    line
}

/// Formats a duration by its two greatest units.
fn shown(length: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(length.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// The JSON line after the results: what was searched.
#[derive(Serialize)]
struct CoverageJson {
    kind: &'static str,
    mode: SearchMode,
    #[serde(flatten)]
    coverage: SearchCoverage,
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::frame::Span;

    const HOUR: Duration = Duration::from_secs(3600);

    fn coverage(cameras: &[(&str, u32)]) -> SearchCoverage {
        let camera = |(camera, hours): &(&str, u32)| CameraCoverage {
            camera: (*camera).into(),
            recorded: HOUR * *hours,
        };
        let from = SystemTime::UNIX_EPOCH + HOUR;
        SearchCoverage {
            asked: Some(Span { from, to: from + HOUR * 24 }),
            cameras: cameras.iter().map(camera).collect(),
            meaning: None,
        }
    }

    #[test]
    fn the_line_says_what_was_searched() {
        let line = |cameras: &[(&str, u32)]| coverage_line(&coverage(cameras));
        assert_eq!(line(&[("gate", 22)]), "searched 22h of 1day of gate");
        assert_eq!(line(&[("gate", 22), ("yard", 3)]), "searched of 1day: gate 22h, yard 3h");
        let many: Vec<_> = (0..7).map(|hours| ("camera", hours + 1)).collect();
        assert_eq!(line(&many), "searched 1h to 7h of 1day of 7 cameras");
        assert_eq!(line(&[]), "searched 1day, in which there are no captions");
        let nothing = coverage_line(&SearchCoverage::default());
        assert_eq!(nothing, "searched nothing: the journal has no events");
    }

    #[test]
    fn the_line_says_what_has_no_vector() {
        let since = Some(SystemTime::UNIX_EPOCH);
        let meaning = MeaningCoverage {
            without_vector: 10_000,
            is_lower_bound: true,
            is_loading: true,
            since,
        };
        let coverage = SearchCoverage { meaning: Some(meaning), ..coverage(&[("gate", 22)]) };
        assert_eq!(
            coverage_line(&coverage),
            "searched 22h of 1day of gate; at least 10000 texts have no vector yet and are found by \
             their words only; vectors are still being loaded: search again; texts until \
             1970-01-01T00:00:00Z are found by their words only"
        );
    }
}
