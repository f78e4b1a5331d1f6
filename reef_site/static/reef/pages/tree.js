// The live tree.
import "../tree/keys.js";
import "../tree/search.js";
import "../tree/updates.js";
