//! Implements `lookout test-alert`: sends a sample alert to a target of the config.

use std::io::Write;

use clap::Args;

use super::ConfigFile;
use crate::config::Config;
use crate::exit::Failure;
use crate::publish::delivery::Target;

#[derive(Args)]
pub struct TestAlert {
    /// Name of the [[webhook]] or [[ntfy]] target in the config.
    target: String,
    #[command(flatten)]
    file: ConfigFile,
}

pub async fn test_alert(args: TestAlert, out: &mut dyn Write) -> Result<(), Failure> {
    let TestAlert { target: name, file: ConfigFile { config: file } } = args;
    let mut config = Config::read(&file).map_err(Failure::cannot_begin)?;
    let Some(at) = config.targets.iter().position(|target| *target.name == *name) else {
        let names: Vec<&str> = config.targets.iter().map(|target| &*target.name).collect();
        let file = file.display();
        return Err(Failure::cannot_begin(anyhow::anyhow!(
            "{file}: no [[webhook]] or [[ntfy]] table has the name {name:?}; there are: {}",
            names.join(", ")
        )));
    };
    let target = config.targets.swap_remove(at);
    let endpoint = target.endpoint.to_string();
    let failed = |why: String| anyhow::anyhow!("{name} at {endpoint}: {why}");
    let target = Target::new(target).map_err(|why| Failure::cannot_begin(failed(why)))?;
    target.send_sample().await.map_err(failed)?;
    writeln!(out, "{name} at {endpoint} accepted a test alert")?;
    Ok(())
}
