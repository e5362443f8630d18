#include <iostream>
#include <string>
#include <vector>

#include "ctl/run.h"

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + (argc > 0 ? 1 : 0), argv + argc);
  return headgate::ctl::Run(args, std::cout, std::cerr);
}
