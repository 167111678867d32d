//! Tries a rule on the past: prints each window with its score, the alerts that the rule would have
//! raised, and a summary.

use std::io::{self, Write};

use super::text::trial::{self, Summary};
use super::{Daemon, Done, Output, Reader, UnexpectedReply, json_line, quietly};
use crate::service::{TrialItem, TrialRequest};
use crate::wire::{decode, encode};

/// Tries a rule. Ends early if the reader of `out` goes away, which cancels the trial.
pub async fn try_rule(
    endpoint: &str,
    request: &TrialRequest,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(endpoint).await?;
    let reply = daemon.client.try_rule(encode::trial_request(request)).await;
    let mut stream = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let mut summary: Option<Summary> = None;
    while let Some(reply) = stream.message().await.map_err(|status| daemon.failed(status))? {
        let item = decode::trial_item(reply)?;
        if quietly(print(&item, output, out).and_then(|()| out.flush()))? == Reader::Left {
            return Ok(());
        }
        match (item, &mut summary) {
            (TrialItem::Started(_), None) => summary = Some(Summary::default()),
            (TrialItem::Window(window), Some(summary)) => summary.window(&window),
            (TrialItem::Alert(alert), Some(summary)) => summary.alert(&alert),
            _ => return Err(UnexpectedReply("item").into()),
        }
    }
    let summary = summary.ok_or_else(|| daemon.broken("the trial ended early".into()))?;
    quietly(match output {
        Output::Text => writeln!(out, "{summary}"),
        Output::Json => json_line(out, &summary),
    })
    .map(drop)
}

fn print(item: &TrialItem, output: Output, out: &mut dyn Write) -> io::Result<()> {
    match output {
        Output::Text => trial::line(item).map_or(Ok(()), |line| writeln!(out, "{line}")),
        Output::Json => trial::json(item).map_or(Ok(()), |json| json_line(out, &json)),
    }
}
