// All kernels of an evaluation; op.cpp has their order.
#pragma once

#include "forces.cuh"
#include "linear.cuh"
#include "polynomial.cuh"
#include "readout.cuh"
