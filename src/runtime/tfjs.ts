/**
 * @file TensorFlow.js as a whole, for what its core package alone does not register under Node: the
 * gradients of its kernels, and its CPU backend. Every device imports this file first.
 */

import "@tensorflow/tfjs";
import { enableProdMode } from "@tensorflow/tfjs-core";

// Production mode drops its advice to install another package and checks that we make ourselves.
enableProdMode();
