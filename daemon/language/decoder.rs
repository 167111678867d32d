//! Runs the language model's decoder graph and manages its KV cache.
//!
//! Two kinds of graph are supported. They differ in their declarations and operators:
//! - with `GroupQueryAttention` (onnxruntime-genai's builder): past and present are one buffer,
//!   allocated once and written in place;
//! - without it (transformers.js exports): past and present grow, and positions are an input.
//!
//! If a graph takes rotary tables from initialisers, lookout's tables replace them. Embeddings,
//! keys, values and logits may each have 32 or 16 bits. A prompt is read into one slot. After that,
//! slots run together if the cache is written in place, and one after the other if it grows.
//!
//! Guarantees: errors name the file and the tensor.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use half::f16;
use ort::session::IoBinding;
use ort::value::{Tensor, TensorElementType};

use super::cache::{Growing, InPlace, KvCache, Mark, Prefix, PrefixStorage, Shape, Store};
use super::rotary::rotary_initialisers;
use super::stopwatch::{Lap, Stopwatch};
use crate::model::{
    Component, Float, GraphKind, Memory, ModelError, Numbers, NumbersRef, Package, Placement,
    Runtime, Session, TensorError, TextModel, host_memory,
};

pub struct Decoder {
    session: Session,
    pub(super) stopwatch: Stopwatch,
    text: TextModel,
    in_place: bool,
    /// Maximum number of tokens in a slot: the longest planned sequence.
    capacity: usize,
    embeds: Float,
    kv: Float,
    logits: Float,
    position_ids: bool,
    use_cache_branch: bool,
    /// Shape of the input, `[]` or `[1]`, or `None` if the graph does not have it.
    num_logits_to_keep: Option<Vec<usize>>,
    #[cfg(test)]
    pub(super) spoils: Option<Spoils>,
}

/// A future run that a test makes fail.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Spoils {
    /// Number of runs before it, which succeed.
    pub after: usize,
    pub how: Spoil,
}

#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(super) enum Spoil {
    Fails,
    NotFinite,
}

fn past_names(layer: usize) -> [(String, String); 2] {
    ["key", "value"]
        .map(|kind| (format!("past_key_values.{layer}.{kind}"), format!("present.{layer}.{kind}")))
}

impl Decoder {
    /// Loads the decoder; `capacity` is the longest planned sequence: video, text and answer.
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        threads: usize,
        capacity: usize,
    ) -> Result<Decoder, ModelError> {
        let graph = package.graph(GraphKind::Decoder)?;
        let facts = graph.facts()?;
        let text = package.text.clone();
        let wrong = |why: String| ModelError(format!("model file {}: {why}", graph.file.display()));
        let initialisers = rotary_initialisers(&facts, &text, capacity).map_err(wrong)?;
        let session = runtime.session(Component::Language, &graph.file, threads, initialisers)?;
        let inputs = session.inputs();
        let declared = |name: &str| inputs.iter().find(|tensor| tensor.name == name);
        let decoder = Decoder {
            in_place: facts.operators.contains("GroupQueryAttention"),
            capacity,
            embeds: session.float_input("inputs_embeds")?.1,
            kv: session.float_input("past_key_values.0.key")?.1,
            logits: session.float_output("logits")?.1,
            position_ids: declared("position_ids").is_some(),
            use_cache_branch: declared("use_cache_branch").is_some(),
            num_logits_to_keep: declared("num_logits_to_keep")
                .map(|tensor| vec![1; tensor.shape.len()]),
            #[cfg(test)]
            spoils: None,
            session,
            stopwatch: Stopwatch::default(),
            text,
        };
        decoder.check()?;
        Ok(decoder)
    }

    /// Returns the float type of the embeddings that the graph takes.
    pub fn embeds(&self) -> Float {
        self.embeds
    }

    /// Returns the bytes of a token's keys and values in all layers.
    pub fn token_bytes(&self) -> usize {
        2 * self.text.layers * self.text.kv_heads * self.text.head_dim * self.kv.bytes()
    }

    /// Checks the graph's declarations against `config.json`.
    fn check(&self) -> Result<(), TensorError> {
        let (session, text) = (&self.session, &self.text);
        let wanted = |name: &str, found: i64, wanted: usize| {
            if found < 0 || found == wanted as i64 {
                return Ok(());
            }
            Err(session.error(format!("{name}: {found} declared, config.json says {wanted}")))
        };
        let (embeds, _) = session.float_input("inputs_embeds")?;
        wanted("inputs_embeds width", *embeds.shape.last().unwrap_or(&-1), text.hidden_size)?;
        session.input("attention_mask", TensorElementType::Int64)?;
        let (logits, _) = session.float_output("logits")?;
        wanted("logits width", *logits.shape.last().unwrap_or(&-1), text.vocab_size)?;
        for layer in 0..text.layers {
            for (past, present) in past_names(layer) {
                let (tensor, float) = session.float_input(&past)?;
                let [_, heads, _, width] = tensor.shape[..] else {
                    return Err(session.error(format!("{past}: wanted 4 dimensions")));
                };
                wanted(&format!("{past} heads"), heads, text.kv_heads)?;
                wanted(&format!("{past} head_dim"), width, text.head_dim)?;
                if float != self.kv || session.float_output(&present)?.1 != self.kv {
                    return Err(session.error(format!(
                        "{past} and {present}: wanted {:?} as past_key_values.0.key",
                        self.kv
                    )));
                }
            }
        }
        let known = [
            "inputs_embeds",
            "attention_mask",
            "position_ids",
            "use_cache_branch",
            "num_logits_to_keep",
        ];
        let layers = text.layers;
        session.only_inputs(|name| {
            known.contains(&name)
                || (0..layers).any(|layer| past_names(layer).iter().any(|(past, _)| past == name))
        })
    }

    pub fn placement(&self) -> &Placement {
        &self.session.placement
    }

    /// Creates an empty cache for `slots` sequences.
    pub fn cache(&self, slots: usize) -> Result<KvCache, TensorError> {
        let store = if self.in_place { self.in_place(slots) } else { self.growing(slots) };
        let store = store.map_err(|e| self.session.error(e))?;
        Ok(KvCache { store, lengths: vec![0; slots], capacity: self.capacity })
    }

    fn in_place(&self, slots: usize) -> ort::Result<Store> {
        let shape = Shape {
            planes: 2 * self.text.layers,
            slots,
            heads: self.text.kv_heads,
            capacity: self.capacity,
            head_dim: self.text.head_dim,
        };
        Ok(Store::InPlace(InPlace {
            bindings: HashMap::new(),
            memory: Memory::new(&self.session, self.kv, shape.numbers())?,
            spare: Memory::for_copy(&self.session, self.kv, shape.heads * shape.head())?,
            shape,
        }))
    }

    fn growing(&self, slots: usize) -> ort::Result<Store> {
        let shape = [1, self.text.kv_heads, 0, self.text.head_dim];
        let none = || match self.kv {
            Float::F32 => self.session.tensor::<f32>(&shape).map(Tensor::into_dyn),
            Float::F16 => self.session.tensor::<f16>(&shape).map(Tensor::into_dyn),
        };
        let slot = |_| {
            let values =
                (0..2 * self.text.layers).map(|_| none()).collect::<Result<Vec<_>, _>>()?;
            let mut slot = Growing {
                binding: self.session.session.create_binding()?,
                values: Arc::new(values),
            };
            self.take_past(&mut slot)?;
            Ok(slot)
        };
        (0..slots).map(slot).collect::<ort::Result<Vec<_>>>().map(Store::Growing)
    }

    /// Empties a slot. Its memory is kept if it is written in place.
    pub fn clear(&self, cache: &mut KvCache, slot: usize) -> Result<(), TensorError> {
        if let Store::Growing(slots) = &mut cache.store {
            let Store::Growing(mut fresh) = self.growing(1).map_err(|e| self.session.error(e))?
            else {
                return Ok(());
            };
            slots[slot] = fresh.remove(0);
        }
        cache.lengths[slot] = 0;
        Ok(())
    }

    /// Appends tokens to a slot, given as `embeddings` `[n, D]`, and returns the logits
    /// `[vocabulary]` after the last token.
    pub fn read<'a>(
        &mut self,
        cache: &mut KvCache,
        slot: usize,
        embeddings: impl Into<NumbersRef<'a>>,
    ) -> Result<Vec<f32>, TensorError> {
        let embeddings = embeddings.into();
        let new = embeddings.len() / self.text.hidden_size;
        self.forward(cache, slot, 1, new, embeddings)
    }

    /// Appends one token to each of the first `slots` slots, given as `embeddings` `[slots, D]`, and
    /// returns the logits `[slots, vocabulary]`.
    pub fn step(
        &mut self,
        cache: &mut KvCache,
        slots: usize,
        embeddings: &[f32],
    ) -> Result<Vec<f32>, TensorError> {
        if self.in_place {
            return self.forward(cache, 0, slots, 1, embeddings.into());
        }
        // Running them together would require copying slots of different lengths into one tensor at
        // each step.
        let mut logits = Vec::new();
        for (slot, embedding) in embeddings.chunks(self.text.hidden_size).enumerate() {
            logits.extend(self.forward(cache, slot, 1, 1, embedding.into())?);
        }
        Ok(logits)
    }

    /// Appends `new` tokens to each of the `slots` slots from `first`, and returns the logits.
    fn forward(
        &mut self,
        cache: &mut KvCache,
        first: usize,
        slots: usize,
        new: usize,
        embeddings: NumbersRef<'_>,
    ) -> Result<Vec<f32>, TensorError> {
        let lengths = &cache.lengths[first..first + slots];
        let longest = lengths.iter().max().copied().unwrap_or(0);
        if new == 0 || longest + new > cache.capacity {
            return Err(self.session.error(format!(
                "{new} tokens after {longest} do not fit in the KV cache of {} tokens",
                cache.capacity
            )));
        }
        #[cfg(test)]
        let spoilt = self.spoilt().map_err(|e| self.session.error(e))?;
        let logits = self.run(cache, first, slots, new, embeddings);
        let logits = logits.map_err(|e| self.session.error(e))?;
        #[cfg(test)]
        let logits = if spoilt { vec![f32::NAN; logits.len()] } else { logits };
        cache.lengths[first..first + slots].iter_mut().for_each(|length| *length += new);
        Ok(logits)
    }

    /// Fails, or returns true if the values of this run are to be spoilt.
    #[cfg(test)]
    fn spoilt(&mut self) -> Result<bool, &'static str> {
        match &mut self.spoils {
            Some(Spoils { after: after @ 1.., .. }) => {
                *after -= 1;
                Ok(false)
            }
            Some(_) => match self.spoils.take().map(|spoils| spoils.how) {
                Some(Spoil::Fails) => Err("spoilt by a test"),
                _ => Ok(true),
            },
            None => Ok(false),
        }
    }

    fn run(
        &mut self,
        cache: &mut KvCache,
        first: usize,
        slots: usize,
        new: usize,
        embeddings: NumbersRef<'_>,
    ) -> ort::Result<Vec<f32>> {
        let begun = self.stopwatch.now();
        let lengths = &cache.lengths[first..first + slots];
        let binding = match &mut cache.store {
            Store::InPlace(store) => self.bound(store, first, slots)?,
            Store::Growing(slots) => &mut slots[first].binding,
        };
        let shape = [slots, new, self.text.hidden_size];
        let converted =
            (embeddings.float() != self.embeds).then(|| self.embeds.numbers(embeddings));
        let embeddings = converted.as_ref().map_or(embeddings, Numbers::all);
        self.session.bind(binding, "inputs_embeds", &shape, embeddings)?;
        // Rows are padded on the right; a row's sum is its length including the new tokens.
        let longest = lengths.iter().max().copied().unwrap_or(0) + new;
        let mut mask = Vec::with_capacity(slots * longest);
        for (row, length) in (1..).zip(lengths) {
            mask.resize(mask.len() + length + new, 1i64);
            mask.resize(row * longest, 0);
        }
        let mask = Tensor::from_array(([slots, longest], mask))?;
        binding.bind_input("attention_mask", &mask)?;
        if self.position_ids {
            let positions = lengths.iter().flat_map(|length| *length as i64..(length + new) as i64);
            let positions = Tensor::from_array(([slots, new], positions.collect::<Vec<_>>()))?;
            binding.bind_input("position_ids", &positions)?;
        }
        if self.use_cache_branch {
            // The input has one element. The branch without a past only avoids the empty past.
            let with_past = Tensor::from_array(([1], vec![lengths[0] > 0]))?;
            binding.bind_input("use_cache_branch", &with_past)?;
        }
        if let Some(shape) = &self.num_logits_to_keep {
            let one = Tensor::from_array((shape.as_slice(), vec![1i64]))?;
            binding.bind_input("num_logits_to_keep", &one)?;
        }
        // Bound again for each run, because a bound output keeps the shape of its last run.
        binding.bind_output_to_device("logits", &host_memory()?)?;
        self.session.settle(binding)?;
        self.stopwatch.add(Lap::Inputs, begun);
        let mut grown = Vec::new();
        let logits = {
            let begun = self.stopwatch.now();
            let mut outputs = self.session.session.run_binding(binding)?;
            self.stopwatch.add(Lap::Call, begun);
            let begun = self.stopwatch.now();
            if !self.in_place {
                for (_, present) in (0..self.text.layers).flat_map(past_names) {
                    grown.extend(outputs.remove(&present));
                }
            }
            let (_, logits) = self.logits.values(&outputs["logits"])?;
            let logits = last_of_each(logits, slots, self.text.vocab_size);
            self.stopwatch.add(Lap::Logits, begun);
            logits
        };
        if let Store::Growing(slots) = &mut cache.store {
            slots[first].values = Arc::new(grown);
            self.take_past(&mut slots[first])?;
        }
        Ok(logits)
    }

    /// Returns the binding of some slots in the shared memory, and creates it at first use.
    fn bound<'a>(
        &self,
        store: &'a mut InPlace,
        first: usize,
        slots: usize,
    ) -> ort::Result<&'a mut IoBinding> {
        let InPlace { bindings, memory, shape, .. } = store;
        match bindings.entry((first, slots)) {
            Entry::Occupied(bound) => Ok(bound.into_mut()),
            Entry::Vacant(place) => {
                let mut binding = self.session.session.create_binding()?;
                let whole = [slots, shape.heads, shape.capacity, shape.head_dim];
                for (plane, names) in (0..self.text.layers).flat_map(past_names).enumerate() {
                    // SAFETY: the binding is stored with the memory and dropped before it.
                    unsafe { memory.bind(&mut binding, names, shape.at(plane, first), &whole) }?;
                }
                Ok(place.insert(binding))
            }
        }
    }

    /// Binds the slot's values as the past, and the outputs to new memory on the session's device.
    fn take_past(&self, slot: &mut Growing) -> ort::Result<()> {
        let names = (0..self.text.layers).flat_map(past_names);
        for ((past, present), value) in names.zip(slot.values.iter()) {
            slot.binding.bind_input(past, value)?;
            slot.binding.bind_output_to_device(present, &self.session.memory()?)?;
        }
        Ok(())
    }

    /// Returns the content of a slot as a prefix: a copy if the cache is written in place, and
    /// shared values if it grows.
    pub fn keep(&mut self, cache: &mut KvCache, slot: usize) -> Result<Prefix, TensorError> {
        let begun = self.stopwatch.now();
        let len = cache.len(slot);
        let kept = match &mut cache.store {
            Store::Growing(slots) => PrefixStorage::Shared(slots[slot].values.clone()),
            Store::InPlace(store) => {
                let kept = self.compact(store, slot, len).map_err(|e| self.session.error(e))?;
                PrefixStorage::Compact(kept)
            }
        };
        self.stopwatch.add(Lap::KeysAndValues, begun);
        Ok(Prefix { len, storage: kept })
    }

    fn compact(&self, store: &mut InPlace, slot: usize, len: usize) -> ort::Result<Memory> {
        let InPlace { memory, shape, .. } = store;
        let pieces = shape.pieces(len);
        let mut kept = Memory::for_copy(&self.session, self.kv, pieces.numbers())?;
        kept.copy(pieces.compact(), memory, shape.layout(slot), pieces)?;
        Ok(kept)
    }

    /// Sets the beginning of a slot to a stored prefix.
    pub fn restore(
        &mut self,
        cache: &mut KvCache,
        slot: usize,
        prefix: &mut Prefix,
    ) -> Result<(), TensorError> {
        let begun = self.stopwatch.now();
        let restored = match (&mut cache.store, &mut prefix.storage) {
            (Store::Growing(slots), PrefixStorage::Shared(values)) => {
                slots[slot].values = values.clone();
                self.take_past(&mut slots[slot])
            }
            (Store::InPlace(InPlace { memory, shape, .. }), PrefixStorage::Compact(kept)) => {
                let pieces = shape.pieces(prefix.len);
                memory.copy(shape.layout(slot), kept, pieces.compact(), pieces)
            }
            _ => Err(ort::Error::new("the cached prefix belongs to the KV cache of another graph")),
        };
        restored.map_err(|e| self.session.error(e))?;
        cache.lengths[slot] = prefix.len;
        self.stopwatch.add(Lap::KeysAndValues, begun);
        Ok(())
    }

    /// Returns a mark of the present length of a slot.
    pub fn mark(&self, cache: &KvCache, slot: usize) -> Mark {
        let values = match &cache.store {
            Store::InPlace(_) => None,
            Store::Growing(slots) => Some(slots[slot].values.clone()),
        };
        Mark { len: cache.len(slot), values }
    }

    /// Returns true if a slot can be cut to any length.
    pub fn can_cut(&self) -> bool {
        self.in_place
    }

    /// Removes the tokens that a slot has received since the mark, but for the first `shared` of
    /// them. `shared` must be 0 if a slot cannot be cut to any length.
    pub fn rewind(
        &self,
        cache: &mut KvCache,
        slot: usize,
        mark: &Mark,
        shared: usize,
    ) -> Result<(), TensorError> {
        if let (Store::Growing(slots), Some(values)) = (&mut cache.store, &mark.values) {
            slots[slot].values = values.clone();
            self.take_past(&mut slots[slot]).map_err(|e| self.session.error(e))?;
        }
        cache.lengths[slot] = mark.len + shared;
        Ok(())
    }

    /// Swaps two slots.
    pub fn swap(&mut self, cache: &mut KvCache, a: usize, b: usize) -> Result<(), TensorError> {
        let begun = self.stopwatch.now();
        cache.swap(a, b).map_err(|e| self.session.error(e))?;
        self.stopwatch.add(Lap::KeysAndValues, begun);
        Ok(())
    }
}

/// Returns the logits of each row's last token, from logits `[rows, any, vocabulary]`.
fn last_of_each(logits: Vec<f32>, rows: usize, vocabulary: usize) -> Vec<f32> {
    let row = logits.len() / rows.max(1);
    if row == vocabulary {
        return logits;
    }
    logits.chunks(row).flat_map(|row| &row[row.len() - vocabulary..]).copied().collect()
}
