//! Sends the clip of an alert.

use tokio::sync::mpsc;
use tonic::Status;

use super::errors;
use crate::proto;
use crate::publish::clip::Clip;
use crate::wire::encode;

/// Sends a clip's description, then its file in chunks.
pub async fn send(mut clip: Clip, to: mpsc::Sender<Result<proto::GetClipResponse, Status>>) {
    let mut description = Some(encode::clip(&clip.description));
    for number in 0.. {
        let item = match clip.chunk(number).await {
            Ok(Some(data)) => {
                Ok(proto::GetClipResponse { clip: description.take(), data: data.to_vec() })
            }
            Ok(None) => return,
            Err(error) => Err(errors::of_query(&error)),
        };
        let is_last = item.is_err();
        if to.send(item).await.is_err() || is_last {
            return;
        }
    }
}
