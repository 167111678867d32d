"""Writes truth-cases.json: windows, words about them and verdicts, by which the tests hold daemon/demo/score/truth.rs and
judge.rs to truth.py.

    python models/demo/cases.py
"""

import json
import random
from pathlib import Path

import scenes
import truth
import words

SECONDS = 48


def main() -> None:
    r = random.Random(3)
    sidecars, cases = [], []
    for number in range(6):
        sidecars.append(scenes.sidecar(scenes.scene(number, SECONDS), f"case{number}", 12))
        actors = truth.actors_of(sidecars[-1])
        windows = []
        for _ in range(14):
            start = round(r.uniform(0, 3 * SECONDS), 2)
            end = round(start + r.uniform(6, 10), 2)
            windows.append((start, end, truth.Window.of(actors, start, end, SECONDS)))
        for start, end, window in windows:
            for _ in range(4):
                question = r.choice(truth.asks(r.choice(["happening", "happening", *truth.SUBJECT_OF])))
                wording, manner = words.wording(question.about, r, r.random() < 0.3)
                # True of this window, or of another.
                other = r.choice(windows)[2] if r.random() < 0.5 else window
                said = words.answer(words.likeliest(other), question, manner)
                if said is not None:
                    verdicts = truth.judge_answer(window, question, said)
                    asked = truth.worded(question, wording)
                    cases.append([number, start, end, asked, said, verdicts])
    folder = Path(__file__).resolve().parent
    rows = ",\n".join(json.dumps(case) for case in cases)
    sides = ",\n".join(json.dumps(s) for s in sidecars)
    (folder / "truth-cases.json").write_text(f'{{"sidecars": [\n{sides}\n],\n"cases": [\n{rows}\n]}}\n')
    judged = [v for case in cases for v in case[5].values()]
    print(
        f"{len(cases)} cases: {judged.count(True)} right, {judged.count(False)} wrong, {judged.count(None)} not judged"
    )


if __name__ == "__main__":
    main()
