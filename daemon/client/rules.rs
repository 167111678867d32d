//! Lists rules, and acknowledges alerts.

use std::io::Write;
use std::time::SystemTime;

use super::{Daemon, Done, Output, Server, UnexpectedReply, json_line, quietly, text};
use crate::proto;
use crate::service::RuleInfo;
use crate::wire::decode;

/// Prints every rule with its state for each of its cameras.
pub async fn rules(server: impl Into<Server>, output: Output, out: &mut dyn Write) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let reply = daemon.client.list_rules(proto::ListRulesRequest {}).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let rules: Vec<RuleInfo> =
        reply.rules.into_iter().map(decode::rule).collect::<Result<_, _>>()?;
    quietly(match output {
        Output::Text => out.write_all(text::rule_table(&rules, SystemTime::now()).as_bytes()),
        Output::Json => rules.iter().try_for_each(|rule| json_line(out, rule)),
    })
    .map(drop)
}

/// Acknowledges an alert, and prints its event.
pub async fn acknowledge(
    server: impl Into<Server>,
    alert_id: String,
    false_alarm: bool,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let reply = daemon.client.ack_alert(proto::AckAlertRequest { alert_id, false_alarm }).await;
    let reply = reply.map_err(|status| daemon.failed(status))?.into_inner();
    let event = decode::event(reply.event.ok_or(UnexpectedReply("event"))?)?;
    quietly(match output {
        Output::Text => writeln!(out, "{}", text::dated_event_line(&event)),
        Output::Json => json_line(out, &event),
    })
    .map(drop)
}
