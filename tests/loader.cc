// Runs serving_default of a SavedModel on files, by the loader and session that TensorFlow Serving is built on.
// Usage: loader MODEL OUT IMAGE...; writes OUT/0.png, OUT/1.png, ...
#include <iostream>
#include <string>
#include <vector>

#include "tensorflow/cc/saved_model/loader.h"
#include "tensorflow/core/framework/tensor.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/public/session_options.h"

namespace tensorflow {
void DisableXlaCompilation();  // a server that is started without options has no XLA
}

int main(int count, char** arguments) {
  using namespace tensorflow;
  DisableXlaCompilation();
  SavedModelBundle bundle;
  absl::Status status = LoadSavedModel(SessionOptions(), RunOptions(), arguments[1], {"serve"}, &bundle);
  Tensor images(DT_STRING, TensorShape({count - 3}));
  for (int i = 3; status.ok() && i < count; ++i) {
    std::string contents;
    status = ReadFileToString(Env::Default(), arguments[i], &contents);
    images.vec<tstring>()(i - 3) = contents;
  }
  std::vector<Tensor> results;
  if (status.ok()) {
    const auto& signature = bundle.GetSignatures().at("serving_default");
    status = bundle.GetSession()->Run({{signature.inputs().at("image_bytes").name(), images}},
                                      {signature.outputs().at("enhanced_bytes").name()}, {}, &results);
  }
  for (int i = 0; status.ok() && i < count - 3; ++i) {
    std::string path = std::string(arguments[2]) + "/" + std::to_string(i) + ".png";
    status = WriteStringToFile(Env::Default(), path, results[0].vec<tstring>()(i));
  }
  std::cout << status << std::endl;
  return status.ok() ? 0 : 1;
}
