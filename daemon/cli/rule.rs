//! Implements `lookout rule try`.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Client, output};
use crate::client;
use crate::config::RuleChanges;
use crate::exit::Failure;
use crate::question::{self, Draft, RawLength, RawTime};
use crate::service::TrialRequest;

#[derive(Subcommand)]
pub enum Rule {
    /// Try a rule on the past: its score on every window, and the alerts that it would have raised.
    ///
    /// Nothing is published, and the daemon's work goes first. Ctrl-C ends the trial. Settings that
    /// are not given are those of the rule in the config, or else the defaults.
    ///
    /// Example: lookout rule try person --camera gate --last 24h
    Try(Try),
}

#[derive(Args)]
pub struct Try {
    #[command(flatten)]
    client: Client,
    /// Name of a rule of the config; `lookout rules` lists them. Without it, give a question.
    #[arg(required_unless_present = "question")]
    rule: Option<String>,
    /// Name of the camera; `lookout cameras` lists them.
    #[arg(long, value_name = "NAME")]
    camera: String,
    /// Try the rule on this much time up to now, such as 24h.
    #[arg(long, value_name = "DURATION", required_unless_present = "from")]
    last: Option<String>,
    /// Try the rule on the time from here on, such as 2026-03-01T14:05:00Z.
    #[arg(long, value_name = "TIME", conflicts_with = "last")]
    from: Option<String>,
    /// Try the rule on the time until here. Default: now.
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<String>,
    /// The question, which is answered by yes or no.
    #[arg(long)]
    question: Option<String>,
    /// Score from which a window counts for an alert.
    #[arg(long, value_name = "SCORE")]
    on: Option<f64>,
    /// Score below which a window counts for the alert's end.
    #[arg(long, value_name = "SCORE")]
    off: Option<f64>,
    /// Number of windows that must agree, and among how many of the newest, such as 2/3.
    #[arg(long, value_name = "N/M")]
    of: Option<String>,
    /// Time after the end of an alert without a new one, such as 1m.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    cooldown: Option<Duration>,
    /// Value by which the logit of every score is divided.
    #[arg(long, value_name = "NUMBER")]
    temperature: Option<f64>,
    /// Compare the windows and alerts with the labels in this JSON file; docs/rules.md describes it.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Draw the scores, thresholds and alerts into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

pub async fn rule(command: Rule, out: &mut dyn Write) -> Result<(), Failure> {
    let Rule::Try(args) = command;
    let draft = Draft {
        last: args.last.map(RawLength::Text),
        from: args.from.map(RawTime::Text),
        to: args.to.map(RawTime::Text),
        ..Draft::default()
    };
    let request = TrialRequest {
        camera: args.camera,
        rule: args.rule,
        changes: RuleChanges {
            question: args.question,
            on: args.on,
            off: args.off,
            of: args.of,
            cooldown: args.cooldown,
            hold: None,
            temperature: args.temperature,
        },
        range: question::range(&draft)?,
    };
    let files = client::TrialFiles { labels: args.against, chart: args.svg };
    let Client { server, json } = args.client;
    client::try_rule(&server, &request, &files, output(json), out).await?;
    Ok(())
}
