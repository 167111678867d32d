//! Builds the model's input for a job.

use std::sync::Arc;

use crate::engine::Engine;
use crate::engine::job::{Job, RulesOfWindow};
use crate::language::{Limits, Schema, Turn, Urgency};
use crate::slowfast::Plan;
use crate::timeline::Clip;

/// The model's input for a job.
pub struct Input {
    pub camera: Arc<str>,
    pub prompt: String,
    pub work: Work,
    pub clip: Clip,
    pub plan: Plan,
    pub urgency: Urgency,
}

/// The model's work for a job.
pub enum Work {
    Text { turns: Arc<[Turn]>, limits: Limits, schema: Option<Arc<Schema>> },
    Scores { questions: Arc<[Arc<str>]> },
}

/// Returns the input of a job, or `None` if the camera has no captions or no frames are left.
pub fn input(engine: &Engine, job: &Job) -> Option<Input> {
    let text = |turns, max_new_tokens, schema| Work::Text {
        turns,
        limits: Limits { max_new_tokens, sampling: engine.answer_settings().sampling },
        schema,
    };
    Some(match job {
        Job::Caption(window) => Input {
            camera: window.camera.clone(),
            prompt: engine.cameras.get(&window.camera)?.settings.caption_prompt.clone()?,
            work: text(Arc::default(), engine.max_new_tokens, None),
            clip: engine.clip(&window.camera, window.range)?,
            plan: engine.plan,
            urgency: Urgency::Later,
        },
        Job::Rules(of_window) => {
            let RulesOfWindow { window, rules } = &**of_window;
            Input {
                camera: window.camera.clone(),
                prompt: String::new(),
                work: Work::Scores {
                    questions: rules.iter().map(|r| r.question.clone()).collect(),
                },
                clip: engine.clip(&window.camera, window.range)?,
                plan: engine.plan,
                urgency: Urgency::Later,
            }
        }
        Job::Question(asked) => Input {
            camera: asked.camera.clone(),
            prompt: asked.prompt.clone(),
            work: if asked.is_scored {
                Work::Scores { questions: [asked.prompt.as_str().into()].into() }
            } else {
                text(asked.turns.clone(), asked.max_new_tokens, asked.schema.clone())
            },
            clip: asked.clip.clone(),
            plan: asked.plan,
            urgency: Urgency::Now,
        },
        Job::Trial(trial) => {
            let (window, clip) = &**trial;
            Input {
                camera: window.camera.clone(),
                prompt: String::new(),
                work: Work::Scores { questions: [window.question.clone()].into() },
                clip: clip.clone(),
                plan: engine.plan,
                urgency: Urgency::Background,
            }
        }
    })
}
