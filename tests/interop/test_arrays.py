"""Estimators, which only predict, and functions of arrays with a gradient of their own."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import GradientError, RemoteDTypeError, RemoteGradientError, ServeError
from tests.helpers.network.client_calls import blocking

linear_model = pytest.importorskip("sklearn.linear_model", reason='needs scikit-learn: pip install "labnet[notebooks]"')
from sklearn import decomposition, ensemble, pipeline, preprocessing, svm  # noqa: E402

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 4)).astype("float32")
LABELS = (X[:, 0] + X[:, 1] > 0).astype(int)


@pytest.mark.parametrize(
    ("estimator", "method"),
    [
        (linear_model.LogisticRegression(), "predict_proba"),
        (ensemble.RandomForestClassifier(n_estimators=3, random_state=0), "predict_proba"),
        (svm.LinearSVC(), "decision_function"),
        (linear_model.LinearRegression(), "predict"),
        (preprocessing.StandardScaler(), "transform"),
        (decomposition.PCA(2), "transform"),
        (pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression()), "predict_proba"),
        (preprocessing.FunctionTransformer(np.log1p), "transform"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_most_informative_method_of_an_estimator_is_served(estimator, method):
    rows = np.abs(X)
    estimator.fit(rows, LABELS)
    with ln.network.serve_model(estimator, port=0) as server, ln.no_grad():
        found = blocking(server)(rows).numpy()
    np.testing.assert_allclose(found, np.asarray(getattr(estimator, method)(rows)), rtol=1e-6)


def test_a_method_may_be_named():
    estimator = linear_model.LogisticRegression().fit(X, LABELS)
    with ln.network.serve_model(estimator, method="predict", port=0) as server, ln.no_grad():
        assert blocking(server)(X).tolist() == estimator.predict(X).tolist()


def test_an_estimator_has_no_gradient_and_says_so():
    estimator = linear_model.LogisticRegression().fit(X, LABELS)
    with ln.network.serve_model(estimator, ln.optim.Adam(), port=0) as server:
        y = blocking(server)(ln.asarray(X, requires_grad=True))
        with pytest.raises(RemoteGradientError, match=r"LogisticRegression\.predict_proba has no gradient") as raised:
            y.sum().backward()
    assert isinstance(raised.value, GradientError)


def test_labels_that_are_texts_are_refused_with_a_way_out():
    estimator = linear_model.LogisticRegression().fit(X, np.where(LABELS, "yes", "no"))
    serving = ln.network.serve_model(estimator, method="predict", port=0)
    with serving as server, ln.no_grad(), pytest.raises(RemoteDTypeError, match="predict_proba"):
        blocking(server)(X)


@pytest.mark.parametrize(
    ("estimator", "options", "told"),
    [
        (linear_model.LogisticRegression(), {}, "this LogisticRegression is not fitted"),
        (linear_model.LinearRegression().fit(X, LABELS), {"method": "predict_proba"}, "has no method 'predict_proba'"),
        (linear_model.LinearRegression().fit(X, LABELS), {"params": {}}, "params= "),
        (linear_model.LinearRegression, {}, r"did you mean LinearRegression\(\)"),
        (np.sin, {"vjp": 3}, "expected a function and rules as vjp="),
        (np.sin, {"method": "predict"}, "method= is not for this model"),
        (object(), {}, "expected a callable or a Module"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(estimator, options, told):
    with pytest.raises(ServeError, match=told):
        ln.network.serve_model(estimator, port=0, **options)


def test_an_estimator_of_any_package_is_known_by_its_method():
    class Doubling:
        def predict(self, x):
            assert type(x) is np.ndarray
            return x * 2

    with ln.network.serve_model(Doubling(), port=0) as server, ln.no_grad():
        assert blocking(server)([1.0, 2.0]).tolist() == [2.0, 4.0]


def of_arrays(x):
    assert type(x) is np.ndarray
    return np.sin(x)


@pytest.mark.parametrize("vjp", [lambda g, out, x: g * np.cos(x), [lambda g, out, x: (g * np.cos(x)).tolist()]])
def test_a_function_of_numpy_with_its_own_gradient(vjp):
    with ln.network.serve_model(of_arrays, vjp=vjp, port=0) as server:
        x = ln.asarray([0.0, 1.0], requires_grad=True)
        y = blocking(server)(x)
        np.testing.assert_array_equal(y.numpy(), np.sin(np.float32([0, 1])))
        np.testing.assert_allclose(y.sum().backward()[x].numpy(), np.cos([0, 1]), rtol=1e-6)


def test_a_rule_per_input_by_name():
    def product(x, y):
        return x * y

    with ln.network.serve_model(product, vjp=(lambda g, out, x, y: g * y, None), port=0) as server:
        x, y = ln.asarray([2.0], requires_grad=True), ln.asarray([3.0], requires_grad=True)
        gradients = blocking(server)(x=x, y=y).sum().backward()
    assert gradients[x].tolist() == [3.0]
    assert y not in gradients


def test_a_rule_that_does_not_fit_is_an_error():
    with ln.network.serve_model(of_arrays, vjp=lambda g, out, x: g[:1], port=0) as server:
        x = ln.asarray([0.0, 1.0], requires_grad=True)
        with pytest.raises(RemoteGradientError, match=r"gradient of shape \(1,\) for an input of shape \(2,\)"):
            blocking(server)(x).sum().backward()
