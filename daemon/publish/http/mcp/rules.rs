//! The tool that lists the rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tool::{Call, Reply, Tool};
use crate::frame::rfc3339;
use crate::publish::http::refusal::Refusal;
use crate::service::RuleInfo;

pub struct ListRules;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arguments {}

#[derive(Serialize, JsonSchema)]
pub struct Rules {
    /// Every rule, once for each of its cameras.
    rules: Vec<RuleInfo>,
}

impl Tool for ListRules {
    const NAME: &str = "list_rules";
    const TITLE: &str = "List the rules";
    const DESCRIPTION: &str = "Lists the rules: yes-or-no questions that are scored on every \
                               window of a camera and raise alerts, with their state and newest \
                               score. list_events with the kind alert returns their alerts.";
    type Arguments = Arguments;
    type Output = Rules;

    async fn run(call: Call, _: Arguments) -> Result<Reply<Rules>, Refusal> {
        let rules = call.service.rules();
        let text = if rules.is_empty() {
            "No rule is configured.".to_owned()
        } else {
            rules.iter().map(line).collect::<Vec<_>>().join("\n")
        };
        Ok(Reply::new(Rules { rules }, text))
    }
}

fn line(rule: &RuleInfo) -> String {
    let RuleInfo { name, camera, question, .. } = rule;
    let score = match rule.scored_at.zip(rule.score) {
        Some((at, score)) => format!("score {score:.2} at {}", rfc3339::format(at)),
        None => "not scored yet".into(),
    };
    let blind = if rule.is_blind { ", blind" } else { "" };
    let (state, alerts) = (rule.state.name(), rule.alerts_today);
    format!("{name} on {camera}: {question} {state}{blind}, {score}, {alerts} alerts today")
}
