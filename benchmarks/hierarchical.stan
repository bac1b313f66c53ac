// The hierarchical posterior of hierarchy.py. States: ln D, ln N, ln E, M, ln B of the five-state
// problem, see problems.py for equations and units; the solver restarts at every bolus. What is
// fixed enters the equations as data, so that no sensitivities are computed for it.
functions {
  vector rates(real t, vector z, vector estimated, array[] int index, vector fixed) {
    vector[12] p = fixed;
    p[index] = estimated;
    real d = exp(z[1]);
    real n = exp(z[2]);
    real e = exp(z[3]);
    real b = exp(z[5]);
    real total = n + e + z[4];
    return [-p[1],
            p[3] * log(p[4] / total) - p[2] * d,
            p[5] * b / (b + 10) / (1 + square(total / p[6])) - p[7] - p[8],
            p[8] * e - p[9] * z[4],
            p[10] * (1 - b / 3000) - p[11] * e / (p[12] + e)]';
  }
}
data {
  int patients;
  int outputs;
  int segments;
  int grid_points;
  array[segments] real start; // day
  array[segments, 5] real bolus; // none into M
  array[segments] int first; // first and last point of the grid in each segment
  array[segments] int last;
  array[grid_points] real grid; // day
  array[grid_points] int output; // index of the output time, or 0
  array[patients] vector[outputs] observed; // ln(E+M)
  real tiny;
  int varying;
  int estimated;
  array[estimated] int index; // of the estimated among the 12 parameters, those that vary first
  vector[12] fixed; // typical values of all 12
  int kn; // where KN, the initial level of N, is among the estimated, or 0
  vector[estimated] typical_mean; // priors, all of logarithms
  vector[estimated] typical_sd;
  vector[varying] omega_mean;
  vector[varying] omega_sd;
  real sigma_mean;
  real sigma_sd;
  real rtol;
  real atol;
  int max_steps;
}
parameters {
  vector<offset=typical_mean, multiplier=typical_sd>[estimated] log_typical;
  vector<offset=omega_mean, multiplier=omega_sd>[varying] log_omega;
  real<offset=sigma_mean, multiplier=sigma_sd> log_sigma;
  matrix[patients, varying] eta;
}
model {
  log_typical ~ normal(typical_mean, typical_sd);
  log_omega ~ normal(omega_mean, omega_sd);
  log_sigma ~ normal(sigma_mean, sigma_sd);
  to_vector(eta) ~ std_normal();
  vector[varying] omega = exp(log_omega);
  real sigma = exp(log_sigma);
  for (i in 1 : patients) {
    vector[estimated] logs = log_typical;
    logs[1 : varying] += omega .* eta[i]';
    vector[estimated] p = exp(logs);
    vector[outputs] simulated;
    vector[5] z = [log(tiny), kn > 0 ? logs[kn] : log(fixed[4]), log(tiny), 0, log(100.0)]';
    for (s in 1 : segments) {
      for (k in 1 : 5) {
        if (bolus[s, k] > 0) {
          z[k] = log(exp(z[k]) + bolus[s, k]);
        }
      }
      array[last[s] - first[s] + 1] vector[5] path
        = ode_rk45_tol(rates, z, start[s], grid[first[s] : last[s]], rtol, atol, max_steps, p,
                       index, fixed);
      for (g in first[s] : last[s]) {
        if (output[g] > 0) {
          vector[5] state = path[g - first[s] + 1];
          simulated[output[g]] = log(exp(state[3]) + state[4]);
        }
      }
      z = path[last[s] - first[s] + 1];
    }
    observed[i] ~ normal(simulated, sigma);
  }
}
