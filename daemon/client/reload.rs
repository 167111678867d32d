//! Lets the daemon read its config again or change a camera of it, and prints what changed.

use std::io::Write;

use super::{Daemon, Done, Output, Server, json_line, quietly};
use crate::proto;
use crate::service::{CameraEdit, Reloaded};

pub async fn reload(server: impl Into<Server>, output: Output, out: &mut dyn Write) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let reply = daemon.client.reload(proto::ReloadRequest {}).await;
    let proto::ReloadResponse { changes, needs_restart } =
        reply.map_err(|status| daemon.failed(status))?.into_inner();
    print(Reloaded { changes, needs_restart }, output, out)
}

/// Changes a camera, and prints what changed.
pub async fn edit_camera(
    server: impl Into<Server>,
    name: String,
    edit: CameraEdit,
    output: Output,
    out: &mut dyn Write,
) -> Done {
    let mut daemon = Daemon::reach(&server.into()).await?;
    let client = &mut daemon.client;
    let changes = match edit {
        CameraEdit::Add { settings, force } => {
            let request = proto::AddCameraRequest { name, settings, force };
            client.add_camera(request).await.map(|reply| reply.into_inner().changes)
        }
        CameraEdit::Update { settings, reset } => {
            let request = proto::UpdateCameraRequest { name, settings, reset };
            client.update_camera(request).await.map(|reply| reply.into_inner().changes)
        }
        CameraEdit::Pause => {
            let request = proto::PauseCameraRequest { name };
            client.pause_camera(request).await.map(|reply| reply.into_inner().changes)
        }
        CameraEdit::Resume => {
            let request = proto::ResumeCameraRequest { name };
            client.resume_camera(request).await.map(|reply| reply.into_inner().changes)
        }
        CameraEdit::Remove => {
            let request = proto::RemoveCameraRequest { name };
            client.remove_camera(request).await.map(|reply| reply.into_inner().changes)
        }
    };
    let changes = changes.map_err(|status| daemon.failed(status))?;
    print(Reloaded { changes, needs_restart: Vec::new() }, output, out)
}

fn print(reloaded: Reloaded, output: Output, out: &mut dyn Write) -> Done {
    quietly(match output {
        Output::Text => writeln!(out, "{reloaded}"),
        Output::Json => json_line(out, &reloaded),
    })
    .map(drop)
}
