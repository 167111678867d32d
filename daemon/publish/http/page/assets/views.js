// The views, in the order of the navigation.
//
// A view is an object:
//   path     the name in the page's address: `#/path?parameters`
//   title    its title
//   icon     the path of its icon, or `null` for a view that the navigation does not show
//   isFor()  returns true if the signed-in person may use the view; without it everybody may
//   open(root, parameters, signal)
//            fills `root`, an empty element. `parameters` is a URLSearchParams, `signal` is aborted
//            when the view is left: pass it to `on`, `get` and `addEventListener`. May return a
//            function that takes new parameters of the same view; without it the view is opened
//            again.

import { alerts } from './views/alerts.js';
import { ask } from './views/ask.js';
import { camera } from './views/camera.js';
import { cameras } from './views/cameras.js';
import { event } from './views/event.js';
import { live } from './views/live.js';
import { search } from './views/search.js';
import { status } from './views/status.js';
import { timeline } from './views/timeline.js';
import { trial } from './views/trial.js';

export const VIEWS = [live, timeline, ask, search, alerts, status, cameras, camera, event, trial];
