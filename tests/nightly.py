"""What may fail with the nightly builds of Keras, and why.

`conftest.py` lets these tests fail there, and only there.
"""

LSTM = (
    "LSTM does not support masking in 3.16.0.dev2026102704, and warns where it "
    "gets a mask: with and without masks on its weights."
)

# Parts of the ids of tests, to reasons.
KNOWN_FAILURES = {
    "test_masked_layer_is_called_as_without_masks[case=mask": LSTM,
    "test_masked_layer_sees_and_passes_keras_masks[make=lstm]": LSTM,
    "test_masked_layer_sees_and_passes_keras_masks[make=sequences]": LSTM,
    "test_masked_layer_sees_and_passes_keras_masks[make=bidirectional]": LSTM,
}
