//! A stand-in for the language model, whose prompts have a fate that the test decides.

use super::*;

/// The fate of a prompt in the stand-in.
#[derive(Clone)]
pub enum Fate {
    /// The prompt is answered after this many steps.
    Steps(usize),
    FailsAtOnce,
    Fails(Failure),
    Breaks,
}

/// A callback before each step of the stand-in.
pub type Happening = Box<dyn FnMut(&Arc<Engine>) + Send>;

pub struct StandIn {
    pub engine: Arc<Engine>,
    pub slots: usize,
    /// Sequences in the background.
    pub background: Vec<SequenceId>,
    pub fates: VecDeque<Fate>,
    /// Sequences, each with the rest of its fate.
    pub work: Vec<(SequenceId, Fate)>,
    /// Number of questions of the sequences that score.
    pub questions: HashMap<SequenceId, usize>,
    pub begun: u64,
    pub refused: Vec<mpsc::Receiver<AnswerItem>>,
    pub between: Happening,
}

impl LanguageBackend for StandIn {
    fn slots(&self) -> usize {
        self.slots
    }

    fn room(&self) -> Room {
        let others = self.work.iter().filter(|(id, _)| !self.background.contains(id)).count();
        match self.slots - others {
            0 => Room::Nothing,
            1 if others > 0 => Room::Question,
            _ => Room::Any,
        }
    }

    fn submit(&mut self, request: Request<'_>) -> Result<Submitted, LanguageError> {
        if matches!(request.task, Task::Text { prompt: TOO_LONG, .. }) {
            // The asker repeats the question at once.
            self.refused.push(asks(&self.engine, TOO_LONG));
            assert!(self.refused.len() < 100, "nobody else has a turn");
            return Err(LanguageError::BadPrompt("too long".into()));
        }
        let fate = self.fates.pop_front().unwrap_or(Fate::Steps(1));
        if matches!(fate, Fate::FailsAtOnce) {
            return Err(Failure::Run("out of memory".into()).into());
        }
        assert!(self.work.len() < self.slots, "no slot is free");
        self.begun += 1;
        let id = SequenceId::of(self.begun);
        if request.urgency == Urgency::Background {
            self.background.push(id);
        }
        self.work.push((id, fate));
        Ok(Submitted {
            id,
            turns: match request.task {
                Task::Text { turns, .. } => turns.len(),
                Task::Scores { questions } => {
                    self.questions.insert(id, questions.len());
                    0
                }
            },
        })
    }

    fn poll(&mut self, on_output: &mut OnOutput<'_>) -> Result<(), LanguageError> {
        (self.between)(&self.engine);
        for (id, fate) in &mut self.work {
            match fate {
                Fate::Steps(left) => *left = left.saturating_sub(1),
                Fate::Breaks => return Err(LanguageError::Broken("slots are lost".into())),
                _ => {}
            }
            match fate {
                Fate::Steps(0) => match self.questions.get(id) {
                    Some(count) => on_output(*id, Output::Scored(scored(*count))),
                    None => on_output(*id, Output::Finished(reply())),
                },
                Fate::Fails(failure) => on_output(*id, Output::Failed(failure.clone())),
                _ => on_output(*id, Output::Text("")),
            }
        }
        self.work.retain(|(_, fate)| matches!(fate, Fate::Steps(1..) | Fate::Breaks));
        Ok(())
    }

    fn cancel(&mut self, id: SequenceId) -> Result<(), LanguageError> {
        self.work.retain(|(other, _)| *other != id);
        Ok(())
    }
}
