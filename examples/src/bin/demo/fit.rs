//! The computation: polynomials fitted to noisy samples of a curve by gradient descent with momentum.
//! It knows nothing of a store.

/// How many times a fit looks at all samples.
pub(crate) const STEPS: u32 = 200;

/// After how many steps the loss is recorded.
const EVERY: u32 = 10;

/// A loss above this is never going to come down again.
const DIVERGED: f64 = 1e6;

/// How many samples there are.
const SAMPLES: u32 = 64;

/// Where the noise starts; the same seed gives the same samples on every machine.
pub(crate) const SEED: u64 = 0x2545_f491_4f6c_dd1d;

/// One point of the grid.
#[derive(Clone, Copy)]
pub(crate) struct Parameters {
    pub(crate) learning_rate: f64,
    pub(crate) momentum: f64,
    pub(crate) degree: u32,
}

/// A fit, finished or given up.
pub(crate) struct Fit {
    /// The polynomial's coefficients, the constant first.
    pub(crate) coefficients: Vec<f64>,
    /// The recorded losses, each with its step.
    pub(crate) losses: Vec<(u32, f64)>,
    /// Why it was given up.
    pub(crate) failure: Option<String>,
}

impl Fit {
    /// Returns the first and the last recorded loss, each with its step.
    pub(crate) fn ends(&self) -> ((u32, f64), (u32, f64)) {
        let none = (0, f64::NAN);
        (
            self.losses.first().copied().unwrap_or(none),
            self.losses.last().copied().unwrap_or(none),
        )
    }
}

/// Returns noisy samples of a curve, as pairs of x and y.
pub(crate) fn samples() -> Vec<(f64, f64)> {
    let mut state = SEED;
    let mut noise = move || {
        // A linear congruential generator: good enough for noise, and the same everywhere.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let bits = u32::try_from(state >> 32).unwrap_or_default();
        f64::from(bits) / f64::from(u32::MAX) - 0.5
    };
    (0..SAMPLES)
        .map(|index| {
            let x = f64::from(index) / f64::from(SAMPLES - 1) * 2.0 - 1.0;
            (x, (2.5 * x).sin() + 0.3 * x * x + 0.1 * noise())
        })
        .collect()
}

/// Returns the value of a polynomial.
pub(crate) fn evaluate(coefficients: &[f64], x: f64) -> f64 {
    coefficients
        .iter()
        .rev()
        .fold(0.0, |sum, coefficient| sum * x + coefficient)
}

/// Returns the mean of what the function gives for each sample.
fn mean(samples: &[(f64, f64)], function: impl Fn(f64, f64) -> f64) -> f64 {
    let sum: f64 = samples.iter().map(|(x, y)| function(*x, *y)).sum();
    sum / f64::from(SAMPLES)
}

/// Fits a polynomial; `watch` sees each loss that is recorded, and ends the fit by an error.
pub(crate) fn fit<E>(
    parameters: Parameters,
    samples: &[(f64, f64)],
    mut watch: impl FnMut(u32, f64) -> Result<(), E>,
) -> Result<Fit, E> {
    let terms = usize::try_from(parameters.degree).unwrap_or_default() + 1;
    let mut fit = Fit {
        coefficients: vec![0.0; terms],
        losses: Vec::new(),
        failure: None,
    };
    let mut velocity = vec![0.0; terms];
    for step in 0..=STEPS {
        let loss = mean(samples, |x, y| (evaluate(&fit.coefficients, x) - y).powi(2));
        let diverged = !loss.is_finite() || loss > DIVERGED;
        if step % EVERY == 0 || diverged {
            fit.losses.push((step, loss));
            watch(step, loss)?;
        }
        if diverged {
            fit.failure = Some(format!(
                "loss {loss:.3e} at step {step} is above {DIVERGED:.0e}: the fit diverged"
            ));
            break;
        }
        if step == STEPS {
            break;
        }
        let mut gradient = Vec::with_capacity(terms);
        for power in 0..parameters.degree.saturating_add(1) {
            let power = i32::try_from(power).unwrap_or(i32::MAX);
            gradient.push(mean(samples, |x, y| {
                2.0 * (evaluate(&fit.coefficients, x) - y) * x.powi(power)
            }));
        }
        for ((coefficient, speed), slope) in fit
            .coefficients
            .iter_mut()
            .zip(&mut velocity)
            .zip(&gradient)
        {
            *speed = parameters.momentum * *speed - parameters.learning_rate * slope;
            *coefficient += *speed;
        }
    }
    Ok(fit)
}

#[cfg(test)]
mod tests {
    use super::{Fit, Parameters, STEPS, fit, samples};
    use std::convert::Infallible;

    fn fitted(learning_rate: f64, momentum: f64, degree: u32) -> Fit {
        let parameters = Parameters {
            learning_rate,
            momentum,
            degree,
        };
        let Ok(fit) = fit(parameters, &samples(), |_, _| Ok::<(), Infallible>(()));
        fit
    }

    #[test]
    fn a_gentle_fit_comes_down_to_the_noise() {
        let fit = fitted(0.4, 0.95, 5);
        assert_eq!(fit.failure, None);
        let ((_, first), (step, last)) = fit.ends();
        assert_eq!(step, STEPS);
        assert!(first > 0.1 && last < 0.002, "{first} {last}");
    }

    #[test]
    fn a_rate_that_is_too_large_is_given_up_where_it_diverges() {
        let fit = fitted(1.2, 0.0, 5);
        let (_, (step, loss)) = fit.ends();
        assert!(step < STEPS && loss > 1e6, "{step} {loss}");
        assert!(
            fit.failure
                .is_some_and(|why| why.contains(&format!("step {step}")))
        );
    }

    #[test]
    fn the_same_fit_gives_the_same_bits() {
        let [one, two] = [fitted(0.1, 0.5, 3), fitted(0.1, 0.5, 3)];
        assert_eq!(one.losses, two.losses);
        assert_eq!(one.coefficients, two.coefficients);
    }
}
