//! The language model's decoder graph and its KV cache.
//!
//! Two kinds of graph are run, told apart by what they declare and hold:
//! - with `GroupQueryAttention` (onnxruntime-genai's builder): past and present are one buffer,
//!   allocated once and written in place;
//! - without it (transformers.js exports): past and present grow, positions are an input.
//!
//! Where a graph takes rotary tables from initialisers, ours replace them. Embeddings, keys, values
//! and logits may each be of 32 or 16 bits. Prefill runs at batch 1. Errors name the file and the
//! tensor.

use half::f16;
use ort::session::IoBinding;
use ort::value::{DynValue, Tensor, TensorElementType};

use crate::model::{
    Element, Float, GraphFacts, GraphKind, ModelError, Package, Part, Placement, RotaryTables,
    Runtime, Scaling, Session, TensorError, TextModel, host_memory,
};

pub struct Decoder {
    session: Session,
    text: TextModel,
    in_place: bool,
    /// Tokens that a cache holds: the longest sequence that is planned.
    capacity: usize,
    embeds: Float,
    kv: Float,
    logits: Float,
    position_ids: bool,
    use_cache_branch: bool,
    /// The input's shape, where the graph has it: none or `[1]`.
    num_logits_to_keep: Option<Vec<usize>>,
}

/// The keys and values of `len` tokens, with room for `capacity`.
///
/// Belongs to the decoder that made it. Tokens from `len` on are rubbish; going back is lowering
/// `len`.
pub struct KvCache {
    binding: IoBinding,
    /// Per layer key and value, in the order of [`past_names`]; in place: bound on both sides.
    values: Vec<DynValue>,
    len: usize,
    capacity: usize,
}

impl KvCache {
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }
}

fn past_names(layer: usize) -> [(String, String); 2] {
    ["key", "value"]
        .map(|part| (format!("past_key_values.{layer}.{part}"), format!("present.{layer}.{part}")))
}

impl Decoder {
    /// `capacity`: the longest sequence that is planned, video, words and answer.
    pub fn load(
        runtime: &Runtime,
        package: &Package,
        threads: usize,
        capacity: usize,
    ) -> Result<Decoder, ModelError> {
        let graph = package.graph(GraphKind::Decoder);
        let facts = graph.facts()?;
        let text = package.text.clone();
        let wrong = |why: String| ModelError(format!("model file {}: {why}", graph.file.display()));
        let initialisers = rotary_initialisers(&facts, &text, capacity).map_err(wrong)?;
        let session = runtime.session(Part::Language, &graph.file, threads, initialisers)?;
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
            session,
            text,
        };
        decoder.check()?;
        Ok(decoder)
    }

    /// Bytes that a cache takes when it is full: keys and values of every layer.
    pub fn cache_bytes(&self) -> usize {
        2 * self.text.layers
            * self.text.kv_heads
            * self.text.head_dim
            * self.capacity
            * self.kv.bytes()
    }

    /// The graph's declarations against `config.json`.
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

    /// An empty cache.
    pub fn cache(&self) -> Result<KvCache, TensorError> {
        self.new_cache().map_err(|e| self.session.error(e))
    }

    fn new_cache(&self) -> ort::Result<KvCache> {
        let mut binding = self.session.session.create_binding()?;
        let length = if self.in_place { self.capacity } else { 0 };
        let shape = [1, self.text.kv_heads, length, self.text.head_dim];
        let mut values = Vec::new();
        for (past, present) in (0..self.text.layers).flat_map(past_names) {
            let mut value = match self.kv {
                Float::F32 => self.session.tensor::<f32>(&shape)?.into_dyn(),
                Float::F16 => self.session.tensor::<f16>(&shape)?.into_dyn(),
            };
            binding.bind_input(past, &value)?;
            if self.in_place {
                binding.bind_output(present, &mut value)?;
            } else {
                binding.bind_output_to_device(present, &self.session.memory()?)?;
            }
            values.push(value);
        }
        Ok(KvCache { binding, values, len: 0, capacity: self.capacity })
    }

    /// Empties the cache, keeping its memory where it is written in place.
    pub fn clear(&self, cache: &mut KvCache) -> Result<(), TensorError> {
        if self.in_place {
            cache.len = 0;
        } else {
            *cache = self.cache()?;
        }
        Ok(())
    }

    /// Appends tokens, `embeddings` `[n, D]`, and returns the logits `[vocabulary]` after the last.
    pub fn forward(
        &mut self,
        cache: &mut KvCache,
        embeddings: &[f32],
    ) -> Result<Vec<f32>, TensorError> {
        let new = embeddings.len() / self.text.hidden_size;
        if new == 0 || cache.len + new > cache.capacity {
            return Err(self.session.error(format!(
                "{new} tokens on {} of a cache for {}",
                cache.len, cache.capacity
            )));
        }
        let logits = self.run(cache, embeddings, new);
        let logits = logits.map_err(|e| self.session.error(e))?;
        cache.len += new;
        Ok(logits)
    }

    fn run(
        &mut self,
        cache: &mut KvCache,
        embeddings: &[f32],
        new: usize,
    ) -> ort::Result<Vec<f32>> {
        let total = cache.len + new;
        let binding = &mut cache.binding;
        let shape = [1, new, self.text.hidden_size];
        binding.bind_input("inputs_embeds", &self.embeds.tensor(&shape, embeddings.to_vec())?)?;
        let mask = Tensor::from_array(([1, total], vec![1i64; total]))?;
        binding.bind_input("attention_mask", &mask)?;
        if self.position_ids {
            let positions: Vec<i64> = (cache.len as i64..total as i64).collect();
            binding.bind_input("position_ids", &Tensor::from_array(([1, new], positions))?)?;
        }
        if self.use_cache_branch {
            // One element; the branch without a past only spares the empty past.
            let with_past = Tensor::from_array(([1], vec![cache.len > 0]))?;
            binding.bind_input("use_cache_branch", &with_past)?;
        }
        if let Some(shape) = &self.num_logits_to_keep {
            let one = Tensor::from_array((shape.as_slice(), vec![1i64]))?;
            binding.bind_input("num_logits_to_keep", &one)?;
        }
        // Bound anew each time: what is bound keeps the shape of its last run.
        binding.bind_output_to_device("logits", &host_memory()?)?;
        self.session.settle(binding)?;
        let mut grown = Vec::new();
        let logits = {
            let mut outputs = self.session.session.run_binding(binding)?;
            if !self.in_place {
                for (_, present) in (0..self.text.layers).flat_map(past_names) {
                    grown.extend(outputs.remove(&present));
                }
            }
            let (shape, mut logits) = self.logits.values(&outputs["logits"])?;
            let vocabulary = shape.last().copied().unwrap_or(0) as usize;
            logits.split_off(logits.len() - vocabulary)
        };
        if !self.in_place {
            let names = (0..self.text.layers).flat_map(past_names);
            for ((past, present), value) in names.zip(&grown) {
                binding.bind_input(past, value)?;
                binding.bind_output_to_device(present, &self.session.memory()?)?;
            }
            cache.values = grown;
        }
        Ok(logits)
    }
}

/// Our rotary tables in place of the graph's, for sequences of up to `positions` tokens.
fn rotary_initialisers(
    facts: &GraphFacts,
    text: &TextModel,
    positions: usize,
) -> Result<Vec<(String, DynValue)>, String> {
    if facts.rotary.is_empty() {
        if facts.operators.contains("GroupQueryAttention") {
            return Err("GroupQueryAttention that is given no rotary tables".into());
        }
        // Whoever exported the graph has computed the rotation into it, for the trained length.
        return match text.rope.scaling {
            Scaling::Dynamic { trained, .. } if positions > trained => Err(format!(
                "rotation is computed into the graph, and config.json's dynamic RoPE scaling \
                 changes it past {trained} tokens; {positions} are planned"
            )),
            _ => Ok(Vec::new()),
        };
    }
    let tables = RotaryTables::new(text.rope, positions, text.head_dim);
    let mut replaced = Vec::new();
    for (cos, sin) in &facts.rotary {
        for (name, values) in [(cos, &tables.cos), (sin, &tables.sin)] {
            let Some(own) = facts.initialisers.get(name) else {
                return Err(format!("rotary table {name:?} is no initialiser"));
            };
            let float = match own.element {
                Element::Float32 => Float::F32,
                Element::Float16 => Float::F16,
                Element::Other => return Err(format!("rotary table {name:?}: wanted floats")),
            };
            if !matches!(own.shape[..], [_, width] if width == tables.half as i64) {
                return Err(format!(
                    "rotary table {name:?} {:?}: wanted [positions, {}]",
                    own.shape, tables.half
                ));
            }
            let tensor = float.tensor(&[tables.positions, tables.half], values.clone());
            replaced.push((name.clone(), tensor.map_err(|e| e.to_string())?));
        }
    }
    Ok(replaced)
}
