#include "plan.h"
namespace tessera { void addFused(Registry&) {} }
