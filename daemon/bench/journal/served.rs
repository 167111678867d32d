//! A daemon that has a journal and nothing else, served by gRPC on loopback.

use std::sync::Arc;

use anyhow::Context;
use tokio_util::sync::CancellationToken;

use crate::access::Gate;
use crate::event::{Alert, Event};
use crate::frame::Span;
use crate::interface::Interface;
use crate::journal::Journal;
use crate::publish::{Listener, grpc};
use crate::question::{Limits, Question, Range};
use crate::service::{
    AlertNotFound, AnswerStream, AskError, CameraInfo, FrameDeletion, FrameError, FrameLookup,
    FrameSample, Readiness, RuleInfo, Service, TrialError, TrialRequest, TrialStream,
};

/// A journal's server, which runs until this is dropped.
pub struct Served {
    pub address: String,
    stop: CancellationToken,
}

impl Served {
    pub async fn start(journal: Arc<dyn Journal>) -> anyhow::Result<Served> {
        let listener = Listener::bind(Interface::Grpc, ([127, 0, 0, 1], 0).into(), 4).await?;
        let address = listener.local_addr().context("address")?.to_string();
        let stop = CancellationToken::new();
        let gate = Gate::open(Arc::new(JournalOnly(journal)), stop.clone());
        let serving = grpc::serve(listener, gate, stop.clone());
        tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!("{error}");
            }
        });
        Ok(Served { address, stop })
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct JournalOnly(Arc<dyn Journal>);

impl Service for JournalOnly {
    fn journal(&self) -> &Arc<dyn Journal> {
        &self.0
    }

    fn cameras(&self) -> Vec<CameraInfo> {
        Vec::new()
    }

    fn frame_jpeg(&self, camera: &str, _: Option<u64>, _: u64) -> FrameLookup {
        let error = FrameError::CameraNotFound(camera.into());
        Box::pin(std::future::ready(Err(error)))
    }

    fn delete_frames(&self, _: Span, _: &[String]) -> FrameDeletion {
        Box::pin(std::future::ready(Ok(0)))
    }

    fn sample_frames(&self, name: &str, _: Range, _: usize) -> Result<FrameSample, AskError> {
        Err(AskError::CameraNotFound(name.into()))
    }

    fn limits(&self) -> Limits {
        Limits { text_bytes: 0, cameras: Some(Vec::new()) }
    }

    fn ask(&self, question: Question) -> Result<AnswerStream, AskError> {
        Err(AskError::CameraNotFound(question.camera().into()))
    }

    fn rules(&self) -> Vec<RuleInfo> {
        Vec::new()
    }

    fn newest_alert(&self, _: &str, _: &str) -> Option<Alert> {
        None
    }

    fn acknowledge(&self, alert_id: &str, _: bool) -> Result<Arc<Event>, AlertNotFound> {
        Err(AlertNotFound(alert_id.into()))
    }

    fn try_rule(&self, request: TrialRequest) -> Result<TrialStream, TrialError> {
        Err(AskError::CameraNotFound(request.camera).into())
    }

    fn readiness(&self) -> Readiness {
        Readiness::Ready
    }

    fn troubles(&self) -> Vec<String> {
        self.0.trouble().into_iter().collect()
    }
}
